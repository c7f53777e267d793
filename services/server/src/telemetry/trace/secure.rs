//! TLS to the collector, as the standard `OTEL_*` variables ask for it.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::export::Error;
use super::standard::{Environment, given};
use crate::telemetry::config::Traces;

const AUTHORITIES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const CERTIFICATE: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
const KEY: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];
const ENDPOINT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const INSECURE: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];

/// How TLS is spoken with the collector; `None` if it is not.
pub(super) fn tls(config: &Traces, environment: Environment<'_>) -> Result<Option<ClientTlsConfig>, Error> {
    if !is_asked_for(config, environment) {
        return Ok(None);
    }
    let tls = match first(&AUTHORITIES, environment) {
        Some((name, path)) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(name, &path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (first(&CERTIFICATE, environment), first(&KEY, environment)) {
        (Some((name, certificate)), Some((key_name, key))) => {
            Ok(Some(tls.identity(Identity::from_pem(read(name, &certificate)?, read(key_name, &key)?))))
        }
        (None, None) => Ok(Some(tls)),
        (Some(_), None) => Err(Error::Half { given: CERTIFICATE[1], missing: KEY[1] }),
        (None, Some(_)) => Err(Error::Half { given: KEY[1], missing: CERTIFICATE[1] }),
    }
}

/// Whether the collector's address is one of `https`. One without a scheme is, unless the variables say otherwise.
fn is_asked_for(config: &Traces, environment: Environment<'_>) -> bool {
    let endpoint = config.endpoint.clone().or_else(|| first(&ENDPOINT, environment).map(|(_, endpoint)| endpoint));
    let Some(endpoint) = endpoint.map(|endpoint| endpoint.to_ascii_lowercase()) else { return false };
    let insecure = || first(&INSECURE, environment).is_some_and(|(_, text)| text.eq_ignore_ascii_case("true"));
    endpoint.starts_with("https://") || (!endpoint.contains("://") && !insecure())
}

fn first(names: &[&'static str], environment: Environment<'_>) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| Some((*name, given(environment, name)?)))
}

fn read(name: &'static str, path: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(Path::new(path)).map_err(|cause| Error::File { name, path: PathBuf::from(path), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(endpoint: Option<&str>, variables: &[(&str, &str)]) -> bool {
        let config = Traces { endpoint: endpoint.map(str::to_owned), ..Traces::default() };
        let environment =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        is_asked_for(&config, &environment)
    }

    #[test]
    fn the_address_of_the_collector_asks_for_tls() {
        let variable = "OTEL_EXPORTER_OTLP_ENDPOINT";
        assert!(!asked(None, &[]) && !asked(Some("http://a:1"), &[(variable, "https://b:1")]));
        assert!(asked(Some("https://a:1"), &[]) && asked(None, &[(variable, "HTTPS://b:1")]));
        assert!(asked(None, &[(variable, "b:1")]));
        assert!(!asked(None, &[(variable, "b:1"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")]));
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_its_variable() {
        let config = Traces { endpoint: Some("https://a:1".to_owned()), ..Traces::default() };
        let environment = |name: &str| (name == AUTHORITIES[1]).then(|| "nowhere/ca.pem".to_owned());
        let error = tls(&config, &environment).err().unwrap().to_string();
        assert!(error.contains(AUTHORITIES[1]) && error.contains("nowhere/ca.pem"), "{error}");
        let environment = |name: &str| (name == KEY[1]).then(|| "key.pem".to_owned());
        let error = tls(&config, &environment).err().unwrap();
        assert!(matches!(error, Error::Half { .. }), "{error}");
    }
}
