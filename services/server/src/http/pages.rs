//! What the HTTP port answers.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::metrics;
use super::rendering::Rendering;
use crate::readiness::Readiness;

const PLAIN: &str = "text/plain; charset=utf-8";
/// The text format of Prometheus.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = "tertulia-server\n\n/metrics  for Prometheus\n/livez    whether the process answers\n/readyz   whether it should be sent clients\n";

/// The pages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Index,
    Metrics,
    Live,
    Ready,
    /// None of them.
    Unknown,
}

impl Page {
    fn of(path: &str) -> Self {
        match path {
            "/" => Self::Index,
            "/metrics" => Self::Metrics,
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            _ => Self::Unknown,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Metrics => "metrics",
            Self::Live => "livez",
            Self::Ready => "readyz",
            Self::Unknown => "unknown",
        }
    }
}

/// Answers requests.
#[derive(Debug)]
pub(super) struct Pages<R> {
    pub(super) rendering: Rendering<R>,
    pub(super) readiness: Readiness,
}

impl<R> Clone for Pages<R> {
    fn clone(&self) -> Self {
        Self { rendering: self.rendering.clone(), readiness: self.readiness.clone() }
    }
}

impl<R: Fn() -> String + Send + Sync + 'static> Pages<R> {
    /// Answers a request, whose body is not read.
    pub(super) async fn answer<B>(self, request: Request<B>) -> Response<Full<Bytes>> {
        let page = Page::of(request.uri().path());
        let response = if matches!(*request.method(), Method::GET | Method::HEAD) {
            self.page(page).await
        } else {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        };
        metrics::answered(page, response.status());
        response
    }

    async fn page(&self, page: Page) -> Response<Full<Bytes>> {
        match page {
            Page::Index => text(StatusCode::OK, PLAIN, INDEX),
            Page::Metrics => {
                metrics::ready(&self.readiness.reasons());
                match self.rendering.text().await {
                    Some(metrics) => text(StatusCode::OK, EXPOSITION, metrics),
                    None => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the metrics cannot be told\n"),
                }
            }
            // Of nothing else: a process that answers must not be killed because something it needs is away.
            Page::Live => text(StatusCode::OK, PLAIN, "ok\n"),
            Page::Ready => {
                let reasons = self.readiness.reasons();
                if reasons.is_empty() {
                    return text(StatusCode::OK, PLAIN, "ok\n");
                }
                let lines = reasons.iter().map(|(reason, detail)| {
                    let line = detail.replace(['\n', '\r'], " ");
                    format!("{reason}: {line}\n")
                });
                text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines.collect::<String>())
            }
            Page::Unknown => text(StatusCode::NOT_FOUND, PLAIN, "there is no such page\n"),
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
