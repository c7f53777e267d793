//! A collector that speaks TLS.

use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tonic::transport::Identity;

use crate::collector::Collector;
use crate::server::Server;

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn spans_arrive_within_tls_at_a_collector_that_is_trusted_and_at_no_other() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (trusted, stranger) = (file("ca.pem", cert.pem()), file("other.pem", other.cert.pem()));
    let collector = Collector::secure(Identity::from_pem(cert.pem(), signing_key.serialize_pem())).await;

    let server = Server::tracing_securely(collector.address, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &trusted)]).await;
    let mut ada = server.member("ada", "Dogs").await;
    ada.post("Dogs", Some(CALLER), "Posted").await;
    collector.trace("4bf92f3577b34da6a3ce929d0e0e4736", 6).await;
    assert!(server.stop(SOON).await.0.success());

    let server = Server::tracing_securely(collector.address, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &stranger)]).await;
    let mut bob = server.member("bob", "Cats").await;
    bob.post("Cats", Some(CALLER), "Posted").await;
    server.until_metric("tertulia_traces_dropped_total{reason=\"export\"}", 6.0).await;
    assert!(server.stop(SOON).await.0.success());
}
