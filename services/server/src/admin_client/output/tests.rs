use super::*;

#[test]
fn a_terminal_obeys_nothing_in_an_answer_and_it_is_the_same_json() {
    let text = "Samo\u{9b}31m\u{202e}yeds\u{7f} \u{2066}rock\u{2028}\u{feff} größe 👩\u{200d}👧\n\u{1b}";
    let written = escaped(serde_json::to_string(text).unwrap());
    let expected = "\"Samo\\u009b31m\\u202eyeds\\u007f \\u2066rock\\u2028\\ufeff größe 👩\u{200d}👧\\n\\u001b\"";
    assert_eq!(written, expected);
    assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    for harmless in ["", "{\"a\": 1}", "größe"] {
        assert_eq!(escaped(harmless.to_owned()), harmless);
    }
}

#[tokio::test]
async fn a_reader_that_leaves_is_noticed() {
    let (reader, writer) = io::pipe().unwrap();
    let mut left = std::pin::pin!(left(writer));
    assert!(futures_util::poll!(&mut left).is_pending());
    drop(reader);
    left.await;
}

#[tokio::test]
async fn nobody_leaves_a_file() {
    let file = tempfile::tempfile().unwrap();
    assert!(futures_util::poll!(std::pin::pin!(left(file))).is_pending());
}
