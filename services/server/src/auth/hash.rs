//! What is kept of a password: its salted hash by argon2id, written as a
//! [PHC string](https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64ct::{Base64Unpadded, Encoding};

/// The most that a check may cost: the 64 MiB that other programs take by default, gone over 16 times.
const MOST: Cost = Cost { memory: 64 * 1024, passes: 16, lanes: 16 };
/// Bytes of a salt.
const SALT: RangeInclusive<usize> = 8..=64;
/// Bytes of what is compared: so many that no other password has them by chance.
const OUTPUT: RangeInclusive<usize> = 16..=64;

/// What is kept of a password. It shows in no log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hash {
    cost: Cost,
    salt: Box<[u8]>,
    /// Empty: no password is right.
    output: Box<[u8]>,
}

/// What the check of a password costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// In KiB.
    memory: u32,
    /// How often it goes over them.
    passes: u32,
    /// How many threads could share the work; here one does all of it.
    lanes: u32,
}

/// The memory of a check, which serves for the next one too.
pub(super) type Scratch = Vec<Block>;

/// Why a hash cannot be used. It does not say what was read: that may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It has another form, or is of another algorithm.
    #[error("it must be of argon2id, as $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH, the last two in base64 without '='")]
    Form,
    /// A check would take too much, or too little to be possible.
    #[error(
        "it asks for m={memory}, t={passes} and p={lanes}: at most m={}, t={} and p={} are allowed, and m is at least 8 times p",
        MOST.memory, MOST.passes, MOST.lanes
    )]
    Cost {
        /// `m`.
        memory: u32,
        /// `t`.
        passes: u32,
        /// `p`.
        lanes: u32,
    },
    /// A part is too short, or too long.
    #[error("its {part} has {bytes} bytes, and must have {least} to {most}")]
    Length {
        /// Which one.
        part: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it must be.
        least: usize,
        /// How long it may be.
        most: usize,
    },
}

impl Hash {
    /// Of a new password.
    pub(super) fn of(password: &str) -> Self {
        let salt: Vec<u8> = [(); 2].iter().flat_map(|()| crate::random::number().to_le_bytes()).collect();
        let mut hash = Self { cost: Cost::default(), salt: salt.into(), output: Box::default() };
        hash.output = hash.work(password, Params::DEFAULT_OUTPUT_LEN, &mut Scratch::new());
        hash
    }

    /// One that no password has.
    pub(super) fn of_nobody(cost: Cost) -> Self {
        Self { cost, salt: Box::from([0; 16]), output: Box::default() }
    }

    /// What a check costs.
    pub(super) fn cost(&self) -> Cost {
        self.cost
    }

    /// Whether it is of that password. It takes tens of milliseconds; how long does not tell what was found.
    pub(super) fn is_of(&self, password: &str, scratch: &mut Scratch) -> bool {
        let length = if self.output.is_empty() { Params::DEFAULT_OUTPUT_LEN } else { self.output.len() };
        let found = self.work(password, length, scratch);
        !found.is_empty() && verify_slices_are_equal(&found, &self.output).is_ok()
    }

    /// What comes of a password: so many bytes, or none if that cannot be found out.
    fn work(&self, password: &str, length: usize, scratch: &mut Scratch) -> Box<[u8]> {
        let Cost { memory, passes, lanes } = self.cost;
        // What is in a file was looked at when it was read.
        let Ok(params) = Params::new(memory, passes, lanes, Some(length)) else { return Box::default() };
        scratch.resize(params.block_count(), Block::new());
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut output = vec![0; length];
        match argon2.hash_password_into_with_memory(password.as_bytes(), &self.salt, &mut output, scratch) {
            Ok(()) => output.into(),
            Err(_) => Box::default(),
        }
    }
}

impl Default for Cost {
    /// What OWASP advises.
    fn default() -> Self {
        Self { memory: Params::DEFAULT_M_COST, passes: Params::DEFAULT_T_COST, lanes: Params::DEFAULT_P_COST }
    }
}

impl FromStr for Hash {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        let mut parts = text.split('$');
        let mut next = || parts.next().ok_or(Unusable::Form);
        let (begin, algorithm, version) = (next()?, next()?, next()?);
        let (costs, salt, output) = (next()?, next()?, next()?);
        if (begin, algorithm, version) != ("", "argon2id", "v=19") || parts.next().is_some() {
            return Err(Unusable::Form);
        }
        let cost = Cost::of(costs)?;
        let bytes = |part, text: &str, allowed: RangeInclusive<usize>| {
            let bytes = Base64Unpadded::decode_vec(text).map_err(|_| Unusable::Form)?;
            let (least, most) = allowed.into_inner();
            if (least..=most).contains(&bytes.len()) {
                Ok(bytes.into_boxed_slice())
            } else {
                Err(Unusable::Length { part, bytes: bytes.len(), least, most })
            }
        };
        Ok(Self { cost, salt: bytes("salt", salt, SALT)?, output: bytes("hash", output, OUTPUT)? })
    }
}

impl Cost {
    fn of(text: &str) -> Result<Self, Unusable> {
        let mut parts = text.split(',');
        let mut next = |key: &str| {
            let value = parts.next().and_then(|part| part.strip_prefix(key)).and_then(|part| part.strip_prefix('='));
            value.and_then(|value| value.parse::<u32>().ok()).ok_or(Unusable::Form)
        };
        let (memory, passes, lanes) = (next("m")?, next("t")?, next("p")?);
        if parts.next().is_some() {
            return Err(Unusable::Form);
        }
        let is_allowed = memory <= MOST.memory && passes <= MOST.passes && lanes <= MOST.lanes;
        if !is_allowed || Params::new(memory, passes, lanes, None).is_err() {
            return Err(Unusable::Cost { memory, passes, lanes });
        }
        Ok(Self { memory, passes, lanes })
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { memory, passes, lanes } = self.cost;
        let [salt, output] = [&self.salt, &self.output].map(|bytes| Base64Unpadded::encode_string(bytes));
        write!(f, "$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${output}")
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the reference implementation's own tests.
    const REFERENCE: [&str; 2] = [
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
        "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
    ];

    #[test]
    fn a_hash_is_of_one_password_and_as_other_programs_write_it() {
        // What is left of one check is nothing to the next, whatever that needs.
        let mut scratch = Scratch::new();
        for text in REFERENCE.iter().chain(&REFERENCE) {
            let hash: Hash = text.parse().unwrap();
            assert!(hash.is_of("password", &mut scratch), "{text}");
            assert!(!hash.is_of("passwore", &mut scratch) && !hash.is_of("", &mut scratch));
            assert_eq!(hash.to_string(), *text);
            assert!(!Hash::of_nobody(hash.cost()).is_of("password", &mut scratch));
        }
    }

    #[test]
    fn a_new_hash_is_salted_and_can_be_read_again() {
        let [one, other] = [Hash::of("größe 1"), Hash::of("größe 1")];
        assert_ne!(one, other);
        assert!(one.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        let read: Hash = one.to_string().parse().unwrap();
        assert_eq!(read, one);
        assert!(read.is_of("größe 1", &mut Scratch::new()));
        assert_eq!(format!("{read:?}"), "Hash(…)");
    }

    #[test]
    fn a_check_costs_no_more_than_is_allowed() {
        let fault = |old: &str, new: &str| REFERENCE[0].replace(old, new).parse::<Hash>().unwrap_err();
        for (old, new) in [
            ("m=256", "m=65537"),
            ("m=256", "m=4294967295"),
            ("m=256", "m=7"),
            ("t=2", "t=17"),
            ("t=2", "t=0"),
            ("p=1", "p=17"),
            ("p=1", "p=0"),
        ] {
            assert!(matches!(fault(old, new), Unusable::Cost { .. }), "{new}");
        }
        let text = fault("m=256", "m=65537").to_string();
        let most = "it asks for m=65537, t=2 and p=1: at most m=65536, t=16 and p=16 are allowed, ";
        assert!(text.starts_with(most), "{text}");
        for (salt, bytes) in [("c29tZXNhbA", 7), (&"AAAA".repeat(22), 66)] {
            assert_eq!(fault("c29tZXNhbHQ", salt), Unusable::Length { part: "salt", bytes, least: 8, most: 64 });
        }
        let short = Unusable::Length { part: "hash", bytes: 4, least: 16, most: 64 };
        assert_eq!(fault("nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "AAAAAA"), short);
        for (old, new) in [
            ("argon2id", "argon2i"),
            ("argon2id", "2y"),
            ("v=19", "v=16"),
            ("$v=19", ""),
            ("m=256", "m=4294967296"),
            ("m=256", "m=-1"),
            ("m=256,t=2", "t=2,m=256"),
            (",p=1", ""),
            ("p=1", "p=1,keyid=AAAA"),
            ("c29tZXNhbHQ", "c29tZXNhbHQ="),
            ("c29tZXNhbHQ$", "c29tZXNhbHQ$AAAA$"),
        ] {
            assert_eq!(fault(old, new), Unusable::Form, "{new}");
        }
    }
}
