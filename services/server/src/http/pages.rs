//! What the HTTP port answers.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::metrics;
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
#[derive(Debug, Clone)]
pub(super) struct Pages<R> {
    pub(super) render: R,
    pub(super) readiness: Readiness,
}

impl<R: Fn() -> String> Pages<R> {
    /// Answers a request, whose body is not read.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let page = Page::of(request.uri().path());
        let response = if matches!(*request.method(), Method::GET | Method::HEAD) {
            self.page(page)
        } else {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        };
        metrics::answered(page, response.status());
        response
    }

    fn page(&self, page: Page) -> Response<Full<Bytes>> {
        match page {
            Page::Index => text(StatusCode::OK, PLAIN, INDEX.to_owned()),
            Page::Metrics => {
                metrics::ready(&self.readiness.reasons());
                text(StatusCode::OK, EXPOSITION, (self.render)())
            }
            // Of nothing else: a process that answers must not be killed because something it needs is away.
            Page::Live => text(StatusCode::OK, PLAIN, "ok\n".to_owned()),
            Page::Ready => {
                let reasons = self.readiness.reasons();
                if reasons.is_empty() {
                    return text(StatusCode::OK, PLAIN, "ok\n".to_owned());
                }
                let lines = reasons.iter().map(|(reason, detail)| {
                    let line = detail.replace(['\n', '\r'], " ");
                    format!("{reason}: {line}\n")
                });
                text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines.collect())
            }
            Page::Unknown => text(StatusCode::NOT_FOUND, PLAIN, "there is no such page\n".to_owned()),
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
