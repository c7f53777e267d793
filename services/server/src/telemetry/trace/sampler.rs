//! Whether something is traced, in the words of `OTEL_TRACES_SAMPLER`.

use opentelemetry::TraceId;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use super::context::Parent;

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Whether the caller's decision counts, where there is one.
    pub(super) asks_parent: bool,
    /// Which part of the rest is traced: 0 to 1.
    pub(super) ratio: f64,
}

impl Sampler {
    /// The sampler of that name; `None` if there is none of that name.
    pub(super) fn named(name: &str, ratio: f64) -> Option<Self> {
        let (asks_parent, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => ratio,
            _ => return None,
        };
        Some(Self { asks_parent, ratio })
    }

    /// The id of the trace, if there is to be one. Without a caller's decision, chance decides where it may.
    pub(super) fn decide(&self, parent: Option<&Parent>, by_chance: bool) -> Option<TraceId> {
        match parent {
            Some(parent) if self.asks_parent => parent.sampled.then_some(parent.trace),
            _ if !by_chance || self.ratio <= 0.0 => None,
            Some(parent) => self.takes(parent.trace).then_some(parent.trace),
            None => Some(RandomIdGenerator::default().new_trace_id()).filter(|id| self.takes(*id)),
        }
    }

    /// Decides by the lower half of the id, as other samplers of a ratio do, so that all services of a trace decide alike.
    fn takes(&self, id: TraceId) -> bool {
        const RANGE: f64 = (1u64 << 63) as f64;
        let [.., a, b, c, d, e, f, g, h] = id.to_bytes();
        let low = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        // Whole numbers up to 2^53 are exact, and beyond that chance does not care.
        self.ratio >= 1.0 || (low as f64) < self.ratio * RANGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> Parent {
        let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0{}", u8::from(sampled));
        Parent::parse(&text).unwrap()
    }

    #[test]
    fn the_caller_decides_where_it_is_asked() {
        for ratio in [0.0, 1.0] {
            let sampler = Sampler { asks_parent: true, ratio };
            for by_chance in [false, true] {
                assert_eq!(sampler.decide(Some(&parent(true)), by_chance), Some(parent(true).trace));
                assert_eq!(sampler.decide(Some(&parent(false)), by_chance), None);
            }
        }
    }

    #[test]
    fn where_it_is_not_asked_its_id_is_kept() {
        let all = Sampler { asks_parent: false, ratio: 1.0 };
        assert_eq!(all.decide(Some(&parent(false)), true), Some(parent(false).trace));
        assert_eq!(all.decide(Some(&parent(true)), false), None);
        assert_eq!(Sampler { ratio: 0.0, ..all }.decide(Some(&parent(true)), true), None);
        // The lower half of the id is 0xa3ce… of 0xffff…: 64 % of the way.
        assert!(Sampler { ratio: 0.65, ..all }.decide(Some(&parent(true)), true).is_some());
        assert!(Sampler { ratio: 0.63, ..all }.decide(Some(&parent(true)), true).is_none());
    }

    #[test]
    fn chance_takes_its_part() {
        let taken = |ratio| {
            let sampler = Sampler { asks_parent: true, ratio };
            (0..10_000).filter(|_| sampler.decide(None, true).is_some()).count()
        };
        assert_eq!((taken(0.0), taken(1.0)), (0, 10_000));
        let tenth = taken(0.1);
        assert!((800..1_200).contains(&tenth), "{tenth}");
        assert_eq!(Sampler { asks_parent: true, ratio: 1.0 }.decide(None, false), None);
    }

    #[test]
    fn samplers_have_their_standard_names() {
        let sampler = |asks_parent, ratio| Some(Sampler { asks_parent, ratio });
        for (name, expected) in [
            ("always_on", sampler(false, 1.0)),
            ("always_off", sampler(false, 0.0)),
            ("traceidratio", sampler(false, 0.25)),
            ("parentbased_always_on", sampler(true, 1.0)),
            ("parentbased_always_off", sampler(true, 0.0)),
            ("parentbased_traceidratio", sampler(true, 0.25)),
            ("parentbased_jaeger_remote", None),
            ("parentbased_", None),
            ("", None),
        ] {
            assert_eq!(Sampler::named(name, 0.25), expected, "{name}");
        }
    }
}
