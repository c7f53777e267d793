//! Which groups somebody may use: some by their names, others by what their names begin with.

use std::fmt;
use std::sync::Arc;

use tertulia_protocol::GroupName;

/// How many names and beginnings of names one may have.
pub(super) const MOST: usize = 256;
/// How many bytes these may have: each connection keeps those of its token.
pub(super) const MOST_BYTES: usize = 8 * 1024;

/// A set of groups. No part of it is within another one. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Groups(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    names: Vec<GroupName>,
    beginnings: Vec<Box<str>>,
}

/// Groups that stand next to each other in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// One.
    Name(&'a GroupName),
    /// All whose names begin so.
    Beginning(&'a str),
}

/// What is no set of groups.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than are kept.
    #[error("there are more than {MOST}, or they have more than {MOST_BYTES} bytes together")]
    TooMany,
    /// No group can have that name.
    #[error("{text:?} cannot be the name of a group")]
    NoName {
        /// What was given, or how that begins.
        text: String,
    },
    /// All groups would be meant, most likely by mistake.
    #[error("the beginning of a name must not be empty")]
    Empty,
}

impl Groups {
    /// All there are.
    #[must_use]
    pub fn all() -> Self {
        Self(Arc::new(Parts { names: Vec::new(), beginnings: vec!["".into()] }))
    }

    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(Parts { names: Vec::new(), beginnings: Vec::new() }))
    }

    /// The groups with these names, and all whose names begin so.
    ///
    /// # Errors
    /// There are too many, or one that no group can have.
    pub fn of<'a>(
        names: impl IntoIterator<Item = &'a str>,
        beginnings: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let (mut count, mut bytes) = (0, 0);
        let mut counted = |text: &str| {
            (count, bytes) = (count + 1, bytes + text.len());
            if count > MOST || bytes > MOST_BYTES { Err(Error::TooMany) } else { Ok(()) }
        };
        let mut parts = Parts { names: Vec::new(), beginnings: Vec::new() };
        for text in beginnings {
            counted(text)?;
            if text.is_empty() {
                return Err(Error::Empty);
            }
            parts.beginnings.push(text.into());
        }
        parts.beginnings.sort_unstable();
        // What begins with another one stands after it.
        parts.beginnings.dedup_by(|next, kept| next.starts_with(&**kept));
        for text in names {
            counted(text)?;
            let name = GroupName::new(text).map_err(|_| Error::NoName { text: begin(text) })?;
            if !parts.has_beginning_of(text) {
                parts.names.push(name);
            }
        }
        parts.names.sort_unstable();
        parts.names.dedup();
        parts.names.shrink_to_fit();
        parts.beginnings.shrink_to_fit();
        Ok(Self(Arc::new(parts)))
    }

    /// The names and the beginnings in texts as people write them: one that ends in `*` is a beginning, empty ones are none. `None`: all there
    /// are, since one is nothing but `*`.
    #[must_use]
    pub fn written<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<(Vec<&'a str>, Vec<&'a str>)> {
        let (mut names, mut beginnings) = (Vec::new(), Vec::new());
        for text in texts {
            match text.strip_suffix('*') {
                Some("") => return None,
                Some(beginning) => beginnings.push(beginning),
                None if text.is_empty() => {}
                None => names.push(text),
            }
        }
        Some((names, beginnings))
    }

    /// Whether a group is one of them.
    #[must_use]
    pub fn contain(&self, name: &str) -> bool {
        let Parts { names, .. } = &*self.0;
        self.0.has_beginning_of(name) || names.binary_search_by(|other| other.as_str().cmp(name)).is_ok()
    }

    /// Those of them whose names begin with `prefix` and come after `after`, in the order of their names; the first part may hold others that
    /// do not come after it.
    pub fn parts<'a>(&'a self, prefix: &'a str, after: &str) -> Vec<Part<'a>> {
        let Parts { names, beginnings } = &*self.0;
        let names = names.iter().filter(|name| name.as_str().starts_with(prefix) && name.as_str() > after);
        let beginnings = beginnings.iter().filter_map(|beginning| match &**beginning {
            longer if longer.starts_with(prefix) => Some(longer),
            shorter if prefix.starts_with(shorter) => Some(prefix),
            _ => None,
        });
        let beginnings = beginnings.filter(|beginning| *beginning > after || after.starts_with(beginning));
        let mut parts: Vec<_> = names.map(Part::Name).chain(beginnings.map(Part::Beginning)).collect();
        parts.sort_unstable_by(|one, other| one.text().cmp(other.text()));
        parts
    }
}

impl Parts {
    fn has_beginning_of(&self, name: &str) -> bool {
        // Whatever stands between a beginning and a name that begins with it begins with it too, and there is none such.
        let after = self.beginnings.partition_point(|beginning| **beginning <= *name);
        after.checked_sub(1).is_some_and(|place| name.starts_with(&*self.beginnings[place]))
    }
}

/// As much of a text as is told of it.
fn begin(text: &str) -> String {
    const TOLD: usize = 64;
    text.chars().take(TOLD).collect()
}

impl Part<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Name(name) => name.as_str(),
            Self::Beginning(beginning) => beginning,
        }
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { names, beginnings } = &*self.0;
        f.debug_list().entries(names).entries(beginnings.iter().map(|text| format!("{text}…"))).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_beginnings_say_which_groups_there_are() {
        let groups = Groups::of(["Dogs", "team-7"], ["team-", "Cats", "Cats and dogs"]).unwrap();
        assert_eq!(format!("{groups:?}"), r#"["Dogs", "Cats…", "team-…"]"#);
        for good in ["team-", "team-7", "Dogs", "Cats", "Cats and mice"] {
            assert!(groups.contain(good), "{good}");
        }
        for bad in ["team", "Dogs2", "dogs", "Ca", "zzz", "A"] {
            assert!(!groups.contain(bad), "{bad}");
        }
        assert!(Groups::all().contain("whatever"));
        assert!(!Groups::none().contain("whatever"));
        assert_eq!(Groups::of([], []).unwrap(), Groups::none());
        let odd = Groups::of(["*", "team-*"], []).unwrap();
        assert!(odd.contain("*") && !odd.contain("whatever") && !odd.contain("team-7"), "a name is a name");
    }

    #[test]
    fn what_no_group_can_be_named_is_an_error_that_shows_it() {
        for bad in ["", " Dogs", "a\nb"] {
            assert_eq!(Groups::of([bad], []), Err(Error::NoName { text: bad.to_owned() }));
        }
        let long = "x".repeat(300);
        assert_eq!(Groups::of([&*long], []), Err(Error::NoName { text: "x".repeat(64) }));
        assert_eq!(Groups::of([], [""]), Err(Error::Empty));
        assert_eq!(Groups::of(std::iter::repeat_n("Dogs", MOST + 1), []), Err(Error::TooMany));
        assert_eq!(Groups::of(std::iter::repeat_n(&*"x".repeat(200), 41), []), Err(Error::TooMany));
    }

    #[test]
    fn a_part_is_where_a_list_goes_on() {
        let groups = Groups::of(["a", "bb", "d"], ["b", "c"]).unwrap();
        let name = |name: &str| Part::Name(groups.0.names.iter().find(|other| other.as_str() == name).unwrap());
        let beginning = Part::Beginning;
        assert_eq!(groups.parts("", ""), [name("a"), beginning("b"), beginning("c"), name("d")]);
        assert_eq!(groups.parts("", "b7"), [beginning("b"), beginning("c"), name("d")]);
        assert_eq!(groups.parts("", "c"), [beginning("c"), name("d")]);
        assert_eq!(groups.parts("bx", ""), [beginning("bx")]);
        assert_eq!(groups.parts("", "d"), []);
    }

    fn texts(texts: &[String]) -> impl Iterator<Item = &str> {
        texts.iter().map(String::as_str)
    }

    proptest! {
        /// Whatever overlaps.
        #[test]
        fn a_name_is_in_it_if_one_of_the_texts_says_so(
            names in prop::collection::vec("[ab]{1,4}", 0..8),
            beginnings in prop::collection::vec("[ab]{1,3}", 0..8),
            name in "[ab]{1,5}",
        ) {
            let groups = Groups::of(texts(&names), texts(&beginnings)).unwrap();
            let said = names.contains(&name) || texts(&beginnings).any(|beginning| name.starts_with(beginning));
            prop_assert_eq!(groups.contain(&name), said);
        }

        #[test]
        fn each_of_them_is_in_one_part_and_in_order(
            names in prop::collection::vec("[ab]{1,4}", 0..8),
            beginnings in prop::collection::vec("[ab]{1,3}", 0..8),
            mut all in prop::collection::vec("[ab]{1,5}", 0..20),
            prefix in "[ab]{0,2}",
            after in "[ab]{0,3}",
        ) {
            all.sort_unstable();
            all.dedup();
            let groups = Groups::of(texts(&names), texts(&beginnings)).unwrap();
            let expected: Vec<_> =
                all.iter().filter(|name| groups.contain(name) && name.starts_with(&prefix) && **name > after).collect();
            let listed: Vec<_> = groups.parts(&prefix, &after).iter().flat_map(|part| {
                all.iter().filter(|name| **name > after && match part {
                    Part::Name(one) => one.as_str() == **name,
                    Part::Beginning(beginning) => name.starts_with(beginning),
                }).collect::<Vec<_>>()
            }).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
