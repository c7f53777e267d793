//! Which groups somebody may use: some by their names, others by what their names begin with.

use std::fmt;

use tertulia_protocol::GroupName;

/// How many names and beginnings of names one may have.
pub(super) const MOST: usize = 1_000;
/// Ends a beginning.
const ANY: char = '*';

/// A set of groups. No part of it is within another one.
#[derive(Clone, PartialEq, Eq)]
pub struct Groups {
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
    /// More than are looked through.
    #[error("there are more than {MOST}")]
    TooMany,
    /// No group can have that name.
    #[error("{text:?} is neither the name of a group nor the beginning of one with a '*' after it")]
    NoName {
        /// What was given.
        text: String,
    },
}

impl Groups {
    /// All there are.
    #[must_use]
    pub fn all() -> Self {
        Self { names: Vec::new(), beginnings: vec!["".into()] }
    }

    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self { names: Vec::new(), beginnings: Vec::new() }
    }

    /// The groups with these names; of one that ends in `*`, all that begin with what stands before it.
    ///
    /// # Errors
    /// There are too many, or one that no group can have.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let (mut names, mut beginnings): (Vec<GroupName>, Vec<Box<str>>) = (Vec::new(), Vec::new());
        for text in texts {
            if names.len() + beginnings.len() == MOST {
                return Err(Error::TooMany);
            }
            match text.strip_suffix(ANY) {
                Some(beginning) => beginnings.push(beginning.into()),
                None => names.push(GroupName::new(text).map_err(|_| Error::NoName { text: text.to_owned() })?),
            }
        }
        beginnings.sort_unstable();
        // What begins with another one stands after it.
        beginnings.dedup_by(|next, kept| next.starts_with(&**kept));
        names.sort_unstable();
        names.dedup();
        let mut groups = Self { names: Vec::new(), beginnings };
        names.retain(|name| !groups.has_beginning_of(name.as_str()));
        groups.names = names;
        Ok(groups)
    }

    /// Whether a group is one of them.
    #[must_use]
    pub fn contain(&self, name: &str) -> bool {
        self.has_beginning_of(name) || self.names.binary_search_by(|other| other.as_str().cmp(name)).is_ok()
    }

    fn has_beginning_of(&self, name: &str) -> bool {
        // Whatever stands between a beginning and a name that begins with it begins with it too, and there is none such.
        let after = self.beginnings.partition_point(|beginning| **beginning <= *name);
        after.checked_sub(1).is_some_and(|place| name.starts_with(&*self.beginnings[place]))
    }

    /// Those of them whose names begin with `prefix` and come after `after`, in the order of their names; the first part may hold others that
    /// do not come after it.
    pub fn parts<'a>(&'a self, prefix: &'a str, after: &str) -> Vec<Part<'a>> {
        let names = self.names.iter().filter(|name| name.as_str().starts_with(prefix) && name.as_str() > after);
        let beginnings = self.beginnings.iter().filter_map(|beginning| match &**beginning {
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
        f.debug_list().entries(&self.names).entries(self.beginnings.iter().map(|text| format!("{text}{ANY}"))).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_beginnings_say_which_groups_there_are() {
        let groups = Groups::of(["team-*", "Dogs", "team-7", "Cats*", "Cats and dogs*"]).unwrap();
        assert_eq!(format!("{groups:?}"), r#"["Dogs", "Cats*", "team-*"]"#);
        for good in ["team-", "team-7", "Dogs", "Cats", "Cats and mice"] {
            assert!(groups.contain(good), "{good}");
        }
        for bad in ["team", "Dogs2", "dogs", "Ca", "zzz", "A"] {
            assert!(!groups.contain(bad), "{bad}");
        }
        assert!(Groups::all().contain("whatever"));
        assert!(!Groups::of([]).unwrap().contain("whatever"));
        assert_eq!(Groups::of(["*", "Dogs"]).unwrap(), Groups::all());
    }

    #[test]
    fn what_no_group_can_be_named_is_an_error_that_shows_it() {
        for bad in ["", " Dogs", "a\nb"] {
            assert_eq!(Groups::of([bad]), Err(Error::NoName { text: bad.to_owned() }));
        }
        assert_eq!(Groups::of(std::iter::repeat_n("Dogs", MOST + 1)), Err(Error::TooMany));
    }

    #[test]
    fn a_part_is_where_a_list_goes_on() {
        let groups = Groups::of(["b*", "a", "bb", "d", "c*"]).unwrap();
        let name = |name| Part::Name(groups.names.iter().find(|other| other.as_str() == name).unwrap());
        let beginning = Part::Beginning;
        assert_eq!(groups.parts("", ""), [name("a"), beginning("b"), beginning("c"), name("d")]);
        assert_eq!(groups.parts("", "b7"), [beginning("b"), beginning("c"), name("d")]);
        assert_eq!(groups.parts("", "c"), [beginning("c"), name("d")]);
        assert_eq!(groups.parts("bx", ""), [beginning("bx")]);
        assert_eq!(groups.parts("", "d"), []);
    }

    proptest! {
        /// Whatever overlaps.
        #[test]
        fn a_name_is_in_it_if_one_of_the_texts_says_so(texts in prop::collection::vec("[ab]{0,3}\\*|[ab]{1,4}", 0..8), name in "[ab]{1,5}") {
            let groups = Groups::of(texts.iter().map(String::as_str)).unwrap();
            let said = texts.iter().any(|text| match text.strip_suffix(ANY) {
                Some(beginning) => name.starts_with(beginning),
                None => *text == name,
            });
            prop_assert_eq!(groups.contain(&name), said);
        }

        #[test]
        fn each_of_them_is_in_one_part_and_in_order(
            texts in prop::collection::vec("[ab]{0,3}\\*|[ab]{1,4}", 0..8),
            mut all in prop::collection::vec("[ab]{1,5}", 0..20),
            prefix in "[ab]{0,2}",
            after in "[ab]{0,3}",
        ) {
            all.sort_unstable();
            all.dedup();
            let groups = Groups::of(texts.iter().map(String::as_str)).unwrap();
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
