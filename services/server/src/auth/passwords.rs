//! Passwords, held against those of a file.
//!
//! A check takes tens of milliseconds of a processor and tens of MiB. So few are made at a time, on threads that may block; and of those
//! who wait for one, one of each address: whoever tries many passwords makes nobody wait but those at the same address.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tertulia_protocol::UserName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::hash::{Hash, Scratch};
use super::metrics::{File, Waiting, Way, reload_failing};
use super::users::{self, Error, User, Users};
use super::{Auth, Principal, Refused, Rights};
use crate::origin;
use crate::reload::{Looks, follow};

/// Bytes of a password: that of each client is kept in memory until it is checked.
pub(super) const LONGEST: usize = 1_024;

/// Why a text can be nobody's password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// There is none.
    #[error("the password is empty")]
    Empty,
    /// It is too long.
    #[error("a password has at most {LONGEST} bytes, this one has {0}")]
    TooLong(usize),
}

/// What is kept of a new password, for a line of the file of users.
///
/// # Errors
/// It is empty or too long.
pub fn hash_of(password: &str) -> Result<String, BadPassword> {
    match password.len() {
        0 => Err(BadPassword::Empty),
        bytes if bytes > LONGEST => Err(BadPassword::TooLong(bytes)),
        _ => Ok(Hash::of(password).to_string()),
    }
}

/// Who may log in with which password.
#[derive(Debug)]
pub(super) struct Passwords {
    file: PathBuf,
    users: RwLock<Users>,
    /// What decides what it costs to find out that there is no such user.
    chance: RandomState,
    turns: Turns,
    checks: Arc<Semaphore>,
    /// Memory of the checks that are over, for the next ones: each would have to have all of it cleared first.
    scratch: Mutex<Vec<Scratch>>,
}

impl Passwords {
    /// Reads the users. It blocks.
    pub(super) fn new(file: &Path, checks: usize, queue: usize) -> Result<Self, Error> {
        let users = users::read(file)?;
        tracing::info!(file = %file.display(), count = users.len(), "clients show passwords of these users");
        let turns = Turns { lines: Arc::default(), longest: queue };
        let (chance, scratch, checks) = (RandomState::new(), Mutex::default(), Arc::new(Semaphore::new(checks)));
        Ok(Self { file: file.to_owned(), users: RwLock::new(users), chance, turns, checks, scratch })
    }

    /// Reads the users whenever it is time, until `stop`; while the file cannot be used, those before stay.
    pub(super) async fn follow(self: Arc<Self>, looks: Looks, stop: CancellationToken) {
        let read = || {
            let file = self.file.clone();
            move || users::read(&file)
        };
        let replace = |new: Users| {
            let mut current = self.users.write().unwrap_or_else(PoisonError::into_inner);
            if *current != new {
                let file = self.file.display();
                tracing::info!(%file, count = new.len(), "the passwords of clients are held against new ones");
                *current = new;
            }
        };
        let what = "the new users and their passwords cannot be used: the old ones stay";
        follow(looks, read, replace, what, reload_failing(File::Users), stop).await;
    }

    /// What `user` may do, who has that password. Who does not wait for the answer gives up its place; a check that has begun is made to its
    /// end.
    async fn check(
        self: Arc<Self>,
        address: IpAddr,
        user: &UserName,
        password: Box<str>,
    ) -> Result<Option<Box<Rights>>, Refused> {
        let waiting = Waiting::begin();
        let turn = self.turns.take(origin::of(address)).await.ok_or(Refused::Busy)?;
        // It is never closed.
        let Ok(place) = Arc::clone(&self.checks).acquire_owned().await else { return Err(Refused::Mismatch) };
        drop(waiting);
        let User { hash, rights } = self.of(user);
        let checking = tokio::task::spawn_blocking(move || {
            let _until_done = (turn, place);
            let mut scratch = lock(&self.scratch).pop().unwrap_or_default();
            let is_right = hash.is_of(&password, &mut scratch);
            lock(&self.scratch).push(scratch);
            is_right
        });
        if checking.await.unwrap_or(false) { Ok(rights) } else { Err(Refused::Mismatch) }
    }

    /// What the file has of `user` now.
    fn of(&self, user: &UserName) -> User {
        self.users.read().unwrap_or_else(PoisonError::into_inner).of(user, &self.chance)
    }
}

/// A password that somebody has shown, and that is not checked yet. It shows in no log.
pub struct Login {
    pub(super) auth: Auth,
    pub(super) passwords: Arc<Passwords>,
    pub(super) user: UserName,
    pub(super) password: Box<str>,
}

impl Login {
    /// Whom the server takes the client for that came from there. Who does not wait for the answer gives up its place among those whose
    /// passwords are to be checked.
    ///
    /// # Errors
    /// There is no such user, or it has another password.
    pub async fn check(self, from: IpAddr) -> Result<Principal, Refused> {
        let Self { auth, passwords, user, password } = self;
        // Whoever gives up, or whose time is over, was not let in either.
        let mut counted = Counted { auth, is_right: false };
        let rights = passwords.check(from, &user, password).await?;
        counted.is_right = true;
        Ok(Principal { user, rights })
    }
}

/// A login that counts once it is over, whatever has ended it.
struct Counted {
    auth: Auth,
    is_right: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.auth.0.metrics.count_one(Way::Password, self.is_right);
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// Has those from one address come one after the other. Cheap to clone.
#[derive(Debug, Clone)]
struct Turns {
    lines: Arc<Mutex<HashMap<IpAddr, Line>>>,
    /// How many there may be in one line: a client that has gone is not seen to have, and whoever stands behind it waits all the same.
    longest: usize,
}

/// Those from one address.
#[derive(Debug)]
struct Line {
    next: Arc<Semaphore>,
    length: usize,
}

/// A place in a line, and then a turn, which it is until this is dropped.
#[derive(Debug)]
struct Turn {
    turns: Turns,
    address: IpAddr,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// `None`: too many wait already.
    async fn take(&self, address: IpAddr) -> Option<Turn> {
        let next = {
            let mut lines = lock(&self.lines);
            let line = lines.entry(address).or_insert_with(|| Line { next: Arc::new(Semaphore::new(1)), length: 0 });
            if line.length >= self.longest {
                return None;
            }
            line.length += 1;
            Arc::clone(&line.next)
        };
        // From here on it is counted.
        let mut turn = Turn { turns: self.clone(), address, permit: None };
        turn.permit = next.acquire_owned().await.ok();
        Some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lines = lock(&self.turns.lines);
        let Some(line) = lines.get_mut(&self.address) else { return };
        line.length -= 1;
        if line.length == 0 {
            lines.remove(&self.address);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
