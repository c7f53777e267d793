//! gRPC health: for the server as a whole and for each service, whether clients should be sent here.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::reflection;
use crate::readiness::Reasons;

/// All that one may ask for; the empty name is the server.
const SERVICES: [&str; 5] =
    ["", "tertulia.admin.v1.AdminService", "grpc.health.v1.Health", reflection::V1, reflection::V1ALPHA];

/// Says what readiness says until `stop`; then the streams of those who watch end.
pub(super) async fn follow(
    mut reporter: HealthReporter,
    mut readiness: watch::Receiver<Reasons>,
    stop: CancellationToken,
) {
    let mut told = None;
    loop {
        let ready = readiness.borrow_and_update().is_empty();
        // Whoever watches is sent whatever is set here, and reasons change more often than what follows from them.
        if told.replace(ready) != Some(ready) {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in SERVICES {
                reporter.set_service_status(service, status).await;
            }
        }
        match stop.run_until_cancelled(readiness.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => break,
        }
    }
    for service in SERVICES {
        reporter.clear_service_status(service).await;
    }
}
