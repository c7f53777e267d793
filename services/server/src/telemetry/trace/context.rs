//! The caller's place in a trace: `traceparent` of W3C Trace Context.

use opentelemetry::{SpanId, TraceId};

/// What a caller says of its own span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
}

impl Parent {
    /// Reads `VERSION-TRACE-SPAN-FLAGS`; `None` for anything else. A newer version may go on behind a dash.
    pub(super) fn parse(text: &str) -> Option<Self> {
        const LENGTH: usize = 55;
        let (text, rest) = text.split_at_checked(LENGTH)?;
        let mut fields = text.split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let lengths = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
        if !lengths || !text.bytes().all(hex) || version == "ff" {
            return None;
        }
        if !rest.is_empty() && (version == "00" || !rest.starts_with('-')) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        valid.then_some(Self { trace, span, sampled })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_caller_is_understood() {
        let parent = Parent::parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(
            (parent.trace.to_string(), parent.span.to_string(), parent.sampled),
            (TRACE.into(), SPAN.into(), true)
        );
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            assert_eq!(Parent::parse(&format!("00-{TRACE}-{SPAN}-{flags}")).unwrap().sampled, sampled, "{flags}");
        }
    }

    #[test]
    fn a_newer_version_may_say_more() {
        assert!(Parent::parse(&format!("01-{TRACE}-{SPAN}-01")).is_some());
        assert!(Parent::parse(&format!("cc-{TRACE}-{SPAN}-01-what-ever")).is_some());
        assert!(Parent::parse(&format!("cc-{TRACE}-{SPAN}-01.what-ever")).is_none());
    }

    #[test]
    fn anything_else_is_no_caller() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "no".to_owned(),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{}-{SPAN}0-01", &TRACE[1..]),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0ü"),
        ] {
            assert_eq!(Parent::parse(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", like in "[0-9a-f-]{55,60}") {
            let _ = (Parent::parse(&text), Parent::parse(&like));
        }
    }
}
