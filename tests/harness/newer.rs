//! Makes a node seem newer than it is, to the others: what it says to them is changed on its way, as a later version may say it.
//!
//! So two versions meet without a second build. What the others say to it stays as it is: a later version reads what this one writes.

use serde_json::{Map, Value, json};

use crate::proxy::Rewrite;

/// The version that it seems to speak.
pub const VERSION: u32 = 9;

/// A later version that needs no more of its readers than this one: it says more than this one knows.
#[must_use]
pub fn compatible() -> Rewrite {
    changed(1)
}

/// A later version that only its own kind understands.
#[must_use]
pub fn incompatible() -> Rewrite {
    changed(VERSION)
}

fn changed(needs: u32) -> Rewrite {
    Rewrite::new(move |subject, content| {
        let mut message: Map<String, Value> = serde_json::from_slice(content).ok()?;
        if subject.starts_with("$KV.") {
            message.insert("wire".to_owned(), json!({"version": VERSION, "needs": needs, "since": "yesterday"}));
            message.insert("version".to_owned(), json!("9.0.0"));
            message.insert("region".to_owned(), json!({"name": "north"}));
        } else if message.contains_key("needs") {
            message.insert("version".to_owned(), json!(VERSION));
            message.insert("needs".to_owned(), json!(needs));
            message.insert("more".to_owned(), json!(["than", "is", "known"]));
            add_to_all(message.get_mut("content")?);
        } else if message.contains_key("ask") || message.contains_key("answer") {
            message.insert("colour".to_owned(), json!("green"));
        } else {
            return None;
        }
        serde_json::to_vec(&message).ok()
    })
}

/// Adds what nobody knows to every object.
fn add_to_all(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // What serde writes for `Result`, and for variants that are not tagged, has one key, and stays so.
            let is_a_variant = map.len() == 1 && map.keys().all(|key| key.starts_with(char::is_uppercase));
            // Its form is serde's own.
            let is_a_duration = map.contains_key("secs");
            map.values_mut().for_each(add_to_all);
            if !is_a_variant && !is_a_duration {
                map.insert("colour".to_owned(), json!("green"));
            }
        }
        Value::Array(all) => all.iter_mut().for_each(add_to_all),
        _ => {}
    }
}
