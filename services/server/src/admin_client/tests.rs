use std::net::TcpListener;

use super::*;

/// What is given by nobody who gives no option.
pub(super) fn options() -> Admin {
    Admin {
        call: None,
        request: "{}".to_owned(),
        describe: false,
        all: false,
        address: None,
        token_file: None,
        ca: None,
        tls_name: None,
        cert: None,
        key: None,
        timeout: std::time::Duration::from_secs(1),
    }
}

/// A server that is called over TLS, which is to be one of those in this file.
pub(super) fn secured(listener: &TcpListener, directory: &tempfile::TempDir) -> Admin {
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem()).unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    Admin { address: Some(address), ca: Some(ca), ..options() }
}

#[tokio::test]
async fn where_no_connection_comes_about_nothing_was_sent() {
    // The system takes connections, and nobody speaks on them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let options = Admin { timeout: Duration::from_millis(50), ..secured(&listener, &directory) };
    let target = Target::new(&options, &Config::default()).unwrap();
    let call = Calls::new().unwrap().find("DeleteGroup").unwrap();
    let request = call.request("{}").unwrap();
    let told = carry_out(&call, request, &target, &options).await.unwrap_err().to_string();
    assert_eq!(told, format!("no connection to {} within 50ms (--timeout): nothing was sent", target.address()));
}
