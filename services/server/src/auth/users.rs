//! The users of a file, and what their passwords are held against.
//!
//! Each line is `NAME HASH`, with a hash as [`super::hash`] writes it, and may go on with `read=GROUPS` and `post=GROUPS`: groups as in
//! [`super::config::groups`]. Where one of both is not named, all groups are meant.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};

use tertulia_protocol::{NameError, NameRules, UserName};

use super::groups::{self, Groups};
use super::hash::{Cost, Hash, Unusable};
use super::{Rights, config};

/// What a line begins with that says nothing: a user whose line is commented out is none.
const COMMENT: &str = "#";
/// Users of a file: some 20 MB of them in memory.
const MOST: usize = 100_000;

/// Who may log in with a password.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Users {
    users: HashMap<UserName, User>,
    /// What a check costs for each of them.
    costs: Vec<Cost>,
}

/// What is known of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// What its password is held against.
    pub(super) hash: Hash,
    /// What it may do; `None`: everything.
    pub(super) rights: Option<Box<Rights>>,
}

/// Why users cannot be let in by a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the users in {} (auth.users_file)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing in the file.
    #[error("there is no user in {} (auth.users_file)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// There is too much in it.
    #[error("there are more than {most} users in {} (auth.users_file): have clients prove who they are by tokens", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// So many may be.
        most: usize,
    },
    /// It has too few words, or others.
    #[error(
        "line {line} of {} (auth.users_file) must be 'NAME HASH', with a hash of 'tertulia-server auth hash-password', and may go on with 'read=GROUPS' and 'post=GROUPS'",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Nobody can have that name.
    #[error("the name in line {line} of {} (auth.users_file) cannot be a user's: {error}", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        error: NameError,
    },
    /// No password can be held against it, or none is to be.
    #[error("the hash in line {line} of {} (auth.users_file) cannot be used: {reason}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: Unusable,
    },
    /// It names groups that cannot be.
    #[error("what line {line} of {} (auth.users_file) says of '{right}' cannot be used: {error}", path.display())]
    Groups {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// `read` or `post`.
        right: &'static str,
        /// What is wrong.
        error: groups::Error,
    },
    /// It would not be known which password is meant.
    #[error("line {line} of {} (auth.users_file) is of a user who has a line before it: each may have one", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

/// Reads the users in a file. Lines that are empty or begin with `#` do not count.
///
/// # Errors
/// The file cannot be read, has no user, too many, or a line that is none.
pub(super) fn read(path: &Path) -> Result<Users, Error> {
    read_at_most(path, MOST)
}

fn read_at_most(path: &Path, most: usize) -> Result<Users, Error> {
    let path_buf = || path.to_owned();
    let content = fs::read(path).map_err(|source| Error::Unreadable { path: path_buf(), source })?;
    let (mut users, mut known) = (Users::default(), Known::default());
    for (line, bytes) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        let malformed = || Error::Malformed { path: path_buf(), line };
        let text = str::from_utf8(bytes).map_err(|_| malformed())?;
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with(COMMENT) {
            continue;
        }
        let (name, rest) = split_at_blank(text);
        let (hash, rest) = split_at_blank(rest.trim_ascii_start());
        let rights = Told::read(rest).filter(|_| !hash.is_empty()).ok_or_else(malformed)?;
        let name = NameRules::user(name).map_err(|error| Error::Name { path: path_buf(), line, error })?;
        let hash: Hash = hash.parse().map_err(|reason| Error::Hash { path: path_buf(), line, reason })?;
        if users.costs.len() == most {
            return Err(Error::TooMany { path: path_buf(), most });
        }
        users.costs.push(hash.cost());
        let groups = |right, error| Error::Groups { path: path_buf(), line, right, error };
        let rights = known.rights(rights).map_err(|(right, error)| groups(right, error))?;
        if users.users.insert(name, User { hash, rights }).is_some() {
            return Err(Error::Twice { path: path_buf(), line });
        }
    }
    if users.users.is_empty() {
        return Err(Error::Empty { path: path_buf() });
    }
    Ok(users)
}

/// What a line says of its user's rights.
#[derive(Default)]
struct Told {
    read: Option<String>,
    post: Option<String>,
}

impl Told {
    /// From what stands behind the hash: `read=LIST` and `post=LIST`, each once, in quotation marks if there are blanks in it. `None`: it is
    /// something else. Nothing is made of words that are no such thing: that might be more than was meant.
    fn read(mut rest: &str) -> Option<Self> {
        let mut told = Self::default();
        loop {
            rest = rest.trim_ascii_start();
            let (right, list) = match (rest.strip_prefix("read="), rest.strip_prefix("post=")) {
                (Some(list), _) => (&mut told.read, list),
                (_, Some(list)) => (&mut told.post, list),
                (None, None) => return rest.is_empty().then_some(told),
            };
            let (list, after) = match list.strip_prefix('"') {
                Some(list) => list.split_once('"')?,
                None => split_at_blank(list),
            };
            let is_odd = list.contains('"') || after.starts_with(|char: char| !char.is_ascii_whitespace());
            if is_odd || right.replace(list.to_owned()).is_some() {
                return None;
            }
            rest = after;
        }
    }
}

/// A word, and what comes behind it.
fn split_at_blank(text: &str) -> (&str, &str) {
    text.split_at(text.find(|char: char| char.is_ascii_whitespace()).unwrap_or(text.len()))
}

/// Lists of groups that were read: many users have the same.
#[derive(Default)]
struct Known(HashMap<String, Groups>);

impl Known {
    fn rights(&mut self, told: Told) -> Result<Option<Box<Rights>>, (&'static str, groups::Error)> {
        if told.read.is_none() && told.post.is_none() {
            return Ok(None);
        }
        let read = self.groups(told.read).map_err(|error| ("read", error))?;
        let post = self.groups(told.post).map_err(|error| ("post", error))?;
        Ok(Some(Box::new(Rights { read, post, until: None, expires_at: None, is_guest: false })))
    }

    fn groups(&mut self, list: Option<String>) -> Result<Groups, groups::Error> {
        let list = list.unwrap_or_else(|| "*".to_owned());
        if let Some(groups) = self.0.get(&list) {
            return Ok(groups.clone());
        }
        let groups = config::groups(&list)?;
        self.0.insert(list, groups.clone());
        Ok(groups)
    }
}

impl Users {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// What is known of `name`. Of somebody who is not there it is a hash that no password has, and to find that out costs what it does for one
    /// of the users: always the same, so that repeated attempts do not tell that there is nobody.
    pub(super) fn of(&self, name: &UserName, chance: &impl BuildHasher) -> User {
        if let Some(user) = self.users.get(name.as_str()) {
            return user.clone();
        }
        let place = chance.hash_one(name.as_str()) as usize % self.costs.len().max(1);
        User { hash: Hash::of_nobody(self.costs.get(place).copied().unwrap_or_default()), rights: None }
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA";

    fn users(content: &[u8]) -> Result<Users, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        fs::write(&path, content).unwrap();
        let shown = path.display().to_string();
        read(&path).map_err(|error| error.to_string().replace(&shown, "FILE"))
    }

    #[test]
    fn each_line_is_a_user_and_the_hash_of_a_password() {
        let users = users(format!("# of 2026\nada {HASH}\r\n\n  größe\t {HASH} \n#bob {HASH}").as_bytes()).unwrap();
        let mut names: Vec<_> = users.users.keys().map(UserName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["ada", "größe"], "a line that is commented out is of nobody");
        assert_eq!(format!("{users:?}"), "Users(2)", "hashes show in no log");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_an_error_that_names_it_and_the_line() {
        for empty in [&b" \n"[..], b"", b"# none\n"] {
            assert_eq!(users(empty).unwrap_err(), "there is no user in FILE (auth.users_file)");
        }
        // A word that is misspelt must not give rights to what it does not name.
        let words = [
            "moderator",
            "Read=a",
            "read=a read=b",
            "read=a Post=b",
            "read=a, write=b",
            "read=a post = b",
            "read=a b",
            "read=\"a",
            "read=\"a\"post=b",
            "read=a\"b\"",
            "read",
        ];
        let misspelt = words.iter().map(|words| format!("ada {HASH} {words}"));
        for bad in ["ada".to_owned(), HASH.to_owned()].into_iter().chain(misspelt) {
            let error = users(format!("bob {HASH}\n{bad}\n").as_bytes()).unwrap_err();
            assert!(error.starts_with("line 2 of FILE (auth.users_file) must be 'NAME HASH', "), "{bad}: {error}");
        }
        assert!(users(b"\xff x").unwrap_err().starts_with("line 1 of FILE"));
        let error = users(format!("@ada {HASH}").as_bytes()).unwrap_err();
        assert!(error.starts_with("the name in line 1 of FILE (auth.users_file) cannot be a user's: "), "{error}");
        let error = users(format!("ada {HASH} read=*\nbob {HASH} read=a post=Dogs,a\u{7}b").as_bytes()).unwrap_err();
        let told = "what line 2 of FILE (auth.users_file) says of 'post' cannot be used: ";
        assert!(error.starts_with(told), "{error}");
        let error = users(b"\nada s3cret").unwrap_err();
        assert!(
            error.starts_with("the hash in line 2 of FILE (auth.users_file) cannot be used: it must be "),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "it may be a password");
        let error = users(format!("ada {HASH}\nbob {HASH}\nada {HASH}").as_bytes()).unwrap_err();
        assert_eq!(error, "line 3 of FILE (auth.users_file) is of a user who has a line before it: each may have one");
        let error = read(Path::new("nowhere/users")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the users in nowhere/users (auth.users_file)");
    }

    #[test]
    fn a_line_may_say_which_groups_its_user_may_use() {
        let lines = [
            format!("ada {HASH}"),
            format!("bob {HASH} read=\"News*, Book Club\"  post=Lobby"),
            format!("eve {HASH} post="),
            format!("zoe {HASH} read=* post=*"),
        ];
        let users = users(lines.join("\n").as_bytes()).unwrap();
        let of = |name: &str| users.of(&UserName::new(name).unwrap(), &RandomState::new()).rights;
        let may = |name: &str, group: &str| of(name).map(|may| (may.read.contain(group), may.post.contain(group)));
        assert_eq!((of("ada"), of("nobody")), (None, None));
        for (group, rights) in [
            ("News of today", (true, false)),
            ("Book Club", (true, false)),
            ("Lobby", (false, true)),
            ("Book", (false, false)),
            ("Lobby 2", (false, false)),
        ] {
            assert_eq!(may("bob", group), Some(rights), "{group}");
        }
        assert_eq!((may("eve", "Lobby"), may("zoe", "Lobby")), (Some((true, false)), Some((true, true))));
        let rights = of("bob").unwrap();
        assert!(rights.until.is_none() && rights.expires_at.is_none() && !rights.is_guest);
    }

    #[test]
    fn there_may_not_be_any_number_of_users() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        fs::write(&path, format!("ada {HASH}\nbob {HASH}\n#\n")).unwrap();
        assert_eq!(read_at_most(&path, 2).unwrap().len(), 2);
        let error = read_at_most(&path, 1).unwrap_err().to_string();
        assert!(error.starts_with("there are more than 1 users in "), "{error}");
    }

    #[test]
    fn to_find_out_that_there_is_nobody_costs_what_it_does_for_one_of_the_users() {
        let dear = HASH.replace("m=8,t=1", "m=64,t=3");
        let users = users(format!("ada {HASH}\nbob {dear}").as_bytes()).unwrap();
        let (chance, of) = (RandomState::new(), |name: &str| UserName::new(name).unwrap());
        let known = [of("ada"), of("bob")].map(|name| users.of(&name, &chance).hash.cost());
        assert_ne!(known[0], known[1]);
        let names: Vec<_> = (0..64).map(|number| of(&format!("nobody-{number}"))).collect();
        let costs: Vec<_> = names.iter().map(|name| users.of(name, &chance).hash.cost()).collect();
        assert!(costs.iter().all(|cost| known.contains(cost)) && known.iter().all(|cost| costs.contains(cost)));
        let again: Vec<_> = names.iter().map(|name| users.of(name, &chance).hash.cost()).collect();
        assert_eq!(costs, again);
    }
}
