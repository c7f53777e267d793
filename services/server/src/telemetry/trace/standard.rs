//! The standard `OTEL_*` variables that decide here. Where the collector is, and what it is told of this server, are read by the
//! crates of OpenTelemetry themselves.

use std::str::FromStr;
use std::time::Duration;

use super::export::Error;
use super::sampler::Sampler;
use crate::telemetry::config::Traces;

/// Reads a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One of a hundred, where nobody says anything else.
const RATIO: f64 = 0.01;

/// How spans are gathered and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Spans that wait; more are lost.
    pub(super) queue: usize,
    /// Spans that are sent together.
    pub(super) batch: usize,
    /// How long the first span of a batch waits for more.
    pub(super) delay: Duration,
    /// How long the collector may take for a batch.
    pub(super) timeout: Duration,
}

/// Whether the environment allows what the configuration asks for.
pub(super) fn allows_traces(environment: Environment<'_>) -> bool {
    let is = |name, value: &str| given(environment, name).is_some_and(|given| given.eq_ignore_ascii_case(value));
    !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

/// Only gRPC is spoken here.
pub(super) fn check_protocol(environment: Environment<'_>) -> Result<(), Error> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match given(environment, name) {
            Some(protocol) if protocol != "grpc" => return Err(Error::Protocol { name, protocol }),
            Some(_) => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// The option decides, else the variables, else one of a hundred; a caller's decision comes first unless the variables say otherwise.
pub(super) fn sampler(config: &Traces, environment: Environment<'_>) -> Result<Sampler, Error> {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    if let Some(ratio) = config.ratio {
        return Ok(Sampler { asks_parent: true, ratio });
    }
    let Some(name) = given(environment, NAME) else { return Ok(Sampler { asks_parent: true, ratio: RATIO }) };
    let ratio = match given(environment, "OTEL_TRACES_SAMPLER_ARG") {
        // Those without a ratio have no argument that would be wrong.
        Some(text) if name.ends_with("traceidratio") => match text.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => return Err(Error::Ratio { given: text }),
        },
        _ => 1.0,
    };
    Sampler::named(&name, ratio).ok_or(Error::Sampler { given: name })
}

/// The pace of a batch span processor.
pub(super) fn pace(environment: Environment<'_>) -> Pace {
    let queue: usize = number(environment, "OTEL_BSP_MAX_QUEUE_SIZE").filter(|size| *size > 0).unwrap_or(2_048);
    let batch: usize = number(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE").filter(|size| *size > 0).unwrap_or(512);
    let millis = |name, default| Duration::from_millis(number(environment, name).unwrap_or(default));
    Pace {
        queue: queue.min(1 << 20),
        batch: batch.min(queue),
        delay: millis("OTEL_BSP_SCHEDULE_DELAY", 5_000),
        timeout: millis("OTEL_BSP_EXPORT_TIMEOUT", 30_000),
    }
}

/// Empty is as good as not given, and so, in the standard, is a number that cannot be read.
fn number<T: FromStr>(environment: Environment<'_>, name: &str) -> Option<T> {
    let text = given(environment, name)?;
    let number = text.parse().ok();
    if number.is_none() {
        tracing::warn!(name, given = text, "not a number: the default holds");
    }
    number
}

pub(super) fn given(environment: Environment<'_>, name: &str) -> Option<String> {
    environment(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn sampler_of(ratio: Option<f64>, variables: &[(&str, &str)]) -> Result<Sampler, Error> {
        sampler(&Traces { ratio, ..Traces::default() }, &environment(variables))
    }

    #[test]
    fn the_option_decides_before_the_variables_and_those_before_the_default() {
        let variables = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
        assert_eq!(sampler_of(Some(0.2), &variables).unwrap(), Sampler { asks_parent: true, ratio: 0.2 });
        assert_eq!(sampler_of(None, &variables).unwrap(), Sampler { asks_parent: false, ratio: 0.5 });
        assert_eq!(sampler_of(None, &[]).unwrap(), Sampler { asks_parent: true, ratio: RATIO });
        assert_eq!(sampler_of(None, &variables[..1]).unwrap().ratio, 1.0);
    }

    #[test]
    fn a_sampler_that_is_not_known_is_refused_by_name() {
        let error = sampler_of(None, &[("OTEL_TRACES_SAMPLER", "xray")]).unwrap_err().to_string();
        assert!(error.contains("OTEL_TRACES_SAMPLER") && error.contains("xray"), "{error}");
        for ratio in ["1.5", "-0.1", "half", "NaN"] {
            let given = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
            let error = sampler_of(None, &given).unwrap_err().to_string();
            assert!(error.contains("OTEL_TRACES_SAMPLER_ARG") && error.contains(ratio), "{error}");
        }
    }

    #[test]
    fn the_environment_can_forbid_traces() {
        let allows = |variables: &[(&str, &str)]| allows_traces(&environment(variables));
        assert!(allows(&[]) && allows(&[("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "otlp")]));
        assert!(!allows(&[("OTEL_SDK_DISABLED", "TRUE")]));
        assert!(!allows(&[("OTEL_TRACES_EXPORTER", "none")]));
    }

    #[test]
    fn only_grpc_is_spoken() {
        let check = |variables: &[(&str, &str)]| check_protocol(&environment(variables));
        let (all, traces) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL");
        assert!(check(&[]).is_ok() && check(&[(all, "grpc")]).is_ok());
        assert!(check(&[(all, "http/protobuf"), (traces, "grpc")]).is_ok());
        assert!(check(&[(all, "http/protobuf")]).unwrap_err().to_string().contains(all));
    }

    #[test]
    fn the_pace_is_that_of_a_batch_span_processor() {
        let pace_of = |variables: &[(&str, &str)]| pace(&environment(variables));
        let seconds = Duration::from_secs;
        assert_eq!(pace_of(&[]), Pace { queue: 2_048, batch: 512, delay: seconds(5), timeout: seconds(30) });
        let given = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "1000"),
        ];
        assert_eq!(pace_of(&given), Pace { queue: 100, batch: 100, delay: seconds(0), timeout: seconds(1) });
        assert_eq!(pace_of(&[("OTEL_BSP_MAX_QUEUE_SIZE", "0")]).queue, 2_048);
    }
}
