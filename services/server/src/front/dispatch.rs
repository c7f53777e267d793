//! From a line to what it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use tertulia_protocol::codec::{decode_classic, decode_extended, is_hello};
use tertulia_protocol::{Code, Dialect, Fault, GroupName, LineTooLong, PostId, classic, extended};

use super::connection::{Change, Gathered, Task};
use super::metrics::SAMPLE;
use super::registry::CloseReason;
use super::replies::{Refused, Reply};
use super::rights;
use crate::auth::{self, Decision, Principal};
use crate::shard::request::{JoinFrom, NewPost, Request};
use crate::shard::{Page, PageLimit, Range, ReadError, Session, Weight};

/// Bytes of messages in one page of `History`, in the log as in JSON.
pub(super) const HISTORY_BYTES: usize = 256 * 1024;

impl Task {
    /// Carries out one line.
    pub(super) fn on_line(&mut self, line: &[u8]) {
        // Some libraries begin what they write with a byte order mark.
        let line = match self.voice {
            None => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line),
            Some(_) => line,
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match self.voice {
            None => self.on_first_line(line),
            Some((_, Dialect::Classic)) => self.on_classic_line(line),
            Some((_, Dialect::Extended)) => self.on_extended_line(line),
        }
    }

    /// The first line decides the dialect.
    fn on_first_line(&mut self, line: &[u8]) {
        match decode_extended(line) {
            Ok(extended::FromClient::Hello(hello)) => self.on_hello(&hello),
            Err(fault) if is_hello(line) => {
                self.shared.metrics.requests.malformed.increment(1);
                self.refuse_hello(Refused::new(fault.code, fault.message));
            }
            Ok(_) | Err(_) => match self.shared.auth.nameless() {
                Ok(principal) => {
                    self.introduce(principal, Dialect::Classic);
                    self.on_classic_line(line);
                }
                Err(refused) => {
                    self.complain_of(&refused);
                    self.refuse(refused.into());
                    self.close(CloseReason::Hello);
                }
            },
        }
    }

    fn on_hello(&mut self, hello: &extended::Hello<'_>) {
        self.shared.metrics.requests.hello.increment(1);
        if hello.version == 0 {
            let newest = tertulia_protocol::VERSION;
            let text = format!("this server speaks versions 1 to {newest}");
            self.refuse_hello(Refused::new(Code::UnsupportedVersion, text));
            return;
        }
        let version = hello.version.min(tertulia_protocol::VERSION);
        match self.shared.auth.decide(hello) {
            Ok(Decision::Known(principal)) => self.answer_hello(version, Ok(principal)),
            Err(refused) => self.answer_hello(version, Err(refused)),
            Ok(Decision::Login(login)) => {
                let from = self.me.peer.ip();
                self.question = Some(Box::pin(async move {
                    let decided = login.check(from).await;
                    Reply::Hello { version, decided }
                }));
            }
        }
    }

    pub(super) fn answer_hello(&mut self, version: u32, decided: Result<Principal, auth::Refused>) {
        match decided {
            Ok(principal) => {
                let session = self.introduce(principal, Dialect::Extended);
                self.welcome(&session, version);
            }
            Err(refused) => {
                self.complain_of(&refused);
                self.refuse_hello(refused.into());
            }
        }
    }

    fn introduce(&mut self, principal: Principal, dialect: Dialect) -> Arc<Session> {
        let session = Arc::new(Session {
            id: self.me.id,
            user: principal.user,
            address: self.me.peer.ip().to_canonical(),
            inbox: Arc::clone(&self.me.inbox),
            home: None,
            wants_places: dialect == Dialect::Extended,
        });
        self.me.set_session(Arc::clone(&session), dialect);
        self.voice = Some((Arc::clone(&session), dialect));
        self.rights = principal.rights;
        session
    }

    fn on_classic_line(&mut self, line: &[u8]) {
        match decode_classic(line) {
            Ok(classic::FromClient::Join { group_name }) => {
                self.shared.metrics.requests.join.increment(1);
                self.on_join(&group_name, JoinFrom::Now);
            }
            Ok(classic::FromClient::Post { group_name, message }) => self.on_post(&group_name, &message, None, None),
            Err(fault) => self.on_fault(fault),
        }
    }

    fn on_extended_line(&mut self, line: &[u8]) {
        use extended::FromClient::{Groups, Hello, History, Join, Leave, Members, Ping, Pong, Post, Refresh, Remove};
        let requests = &self.shared.metrics.requests;
        match decode_extended(line) {
            Ok(Post(post)) => {
                self.on_post(&post.group_name, &post.message, post.id.as_deref(), post.traceparent.as_deref());
            }
            Ok(Join(join)) => {
                requests.join.increment(1);
                match join_from(&join) {
                    Ok(from) => self.on_join(&join.group_name, from),
                    Err(text) => {
                        self.shared.metrics.refused_joins.increment(1);
                        self.refuse(Refused::new(Code::BadRequest, text).about("Join", &join.group_name));
                    }
                }
            }
            Ok(Leave { group_name }) => {
                requests.leave.increment(1);
                self.on_leave(&group_name);
            }
            Ok(History(request)) => {
                requests.history.increment(1);
                self.on_history(&request);
            }
            Ok(Members(request)) => {
                requests.members.increment(1);
                self.on_members(&request);
            }
            Ok(Groups(request)) => {
                requests.groups.increment(1);
                self.on_groups(&request);
            }
            Ok(Refresh { token }) => {
                requests.refresh.increment(1);
                self.on_refresh(&token);
            }
            Ok(Remove(request)) => {
                requests.remove.increment(1);
                self.on_remove(&request);
            }
            Ok(Ping {}) => {
                requests.ping.increment(1);
                self.out.push(&extended::FromServer::Pong {});
            }
            Ok(Pong {}) => requests.pong.increment(1),
            Ok(Hello(_)) => {
                requests.hello.increment(1);
                let text = "Hello is only the first line of a connection";
                self.refuse(Refused::new(Code::BadRequest, text).request("Hello"));
            }
            Err(fault) => self.on_fault(fault),
        }
    }

    fn on_fault(&mut self, fault: Fault) {
        self.shared.metrics.requests.malformed.increment(1);
        let (group, id) = (fault.group_name.as_deref().map(told), fault.id.as_deref().map(told));
        self.refuse(Refused { request: fault.kind, group, id, ..Refused::new(fault.code, fault.message) });
        self.on_malformed();
    }

    /// The line was of no use; too many of them end the connection.
    pub(super) fn on_malformed(&mut self) {
        self.malformed += 1;
        let max = self.shared.limits.malformed_lines;
        if self.malformed >= max {
            self.refuse(Refused::new(Code::Protocol, format!("the connection is closed after {max} malformed lines")));
            self.finish(CloseReason::Malformed);
        }
    }

    pub(super) fn on_line_too_long(&mut self, error: &LineTooLong) {
        self.refuse(Refused::new(Code::LineTooLong, format!("{error}; the connection is closed")));
        self.finish(CloseReason::LineTooLong);
    }

    /// A name that keeps to the rules; one that the connection knows need not be checked again.
    pub(super) fn group(&mut self, name: &str, request: &'static str) -> Option<GroupName> {
        if let Some(membership) = self.memberships.find(name) {
            return Some(membership.group().clone());
        }
        match self.shared.rules.group(name) {
            Ok(group) => Some(group),
            Err(error) => {
                self.refuse(Refused::new(Code::BadGroupName, error.to_string()).about(request, &told(name)));
                None
            }
        }
    }

    fn on_join(&mut self, name: &str, from: JoinFrom) {
        let Some(group) = self.group(name, "Join") else {
            self.shared.metrics.refused_joins.increment(1);
            return;
        };
        if !self.may_read("Join", &group) {
            self.shared.metrics.refused_joins.increment(1);
            return;
        }
        let max = self.shared.limits.groups_per_connection;
        if self.memberships.len() + self.changing.len() >= max && self.groups_with(&group) > max {
            self.shared.metrics.refused_joins.increment(1);
            let text = format!("a connection may be in {max} groups");
            self.refuse(Refused::new(Code::TooManyGroups, text).about("Join", name));
            return;
        }
        self.changing.push(Change { group: group.clone(), joins: true });
        self.request(group, |group, session| Request::Join { group, session, from });
    }

    /// How many groups the connection is in once all its requests to join and to leave, and then one to join `group`, have been carried out.
    fn groups_with(&self, group: &GroupName) -> usize {
        let changes = self.changing.iter().map(|change| (change.group.as_str(), change.joins));
        // The last word on each of them.
        let changed: BTreeMap<&str, bool> = changes.chain([(group.as_str(), true)]).collect();
        let kept = self.memberships.iter().filter(|membership| !changed.contains_key(membership.group().as_str()));
        kept.count() + changed.values().filter(|joins| **joins).count()
    }

    fn on_leave(&mut self, name: &str) {
        let Some(group) = self.group(name, "Leave") else { return };
        self.changing.push(Change { group: group.clone(), joins: false });
        self.request(group, |group, session| Request::Leave { group, session, answer: true });
    }

    /// Sends a request to a group's owner that it will answer. It is not to overtake posts, which wait for the log.
    fn request(&mut self, group: GroupName, request: impl FnOnce(GroupName, Arc<Session>) -> Request) {
        self.send_gathered();
        let Some((session, _)) = &self.voice else { return };
        let shard = self.shared.shards.shard_of(&group);
        let request = request(group, Arc::clone(session));
        self.in_flight += 1;
        if self.posting > 0 {
            self.held = Some(Box::new((shard, request)));
        } else {
            self.send(shard, request);
        }
    }

    fn on_post(&mut self, name: &str, message: &str, id: Option<&str>, traceparent: Option<&str>) {
        self.shared.metrics.requests.post.increment(1);
        // Here it is decided whether the post is traced; from here on one that is not carries nothing.
        let mut trace = self.shared.tracer.post(traceparent, self.read_at, self.me.id.0);
        let mut post = match self.check_post(name, message, id) {
            Ok(post) => post,
            Err(refused) => {
                self.shared.metrics.refused_posts.increment(1);
                if let Some(trace) = trace {
                    trace.refused_at_once(refused.code.as_str());
                }
                let refused = Refused { id: id.map(told), ..refused };
                self.refuse(refused.about("Post", &told(name)));
                return;
            }
        };
        if let Some(trace) = &mut trace {
            trace.routed();
        }
        post.trace = trace;
        let shard = self.shared.shards.shard_of(&post.group);
        if self.gathered.as_ref().is_some_and(|gathered| gathered.shard != shard) {
            self.send_gathered();
        }
        let weight = u32::try_from(Weight::of_post(post.message.len())).unwrap_or(u32::MAX);
        let gathered = self.gathered.get_or_insert_with(|| Gathered { shard, bytes: 0, posts: Vec::new() });
        gathered.bytes = gathered.bytes.saturating_add(weight);
        gathered.posts.push(post);
        if self.posts.is_multiple_of(SAMPLE) && self.measured_post.is_none() {
            self.measured_post = Some(self.read_at());
            self.measured_behind = u16::try_from(self.posting).unwrap_or(u16::MAX);
        }
        self.in_flight += 1;
        self.posting += 1;
        self.me.posts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.posts = self.posts.wrapping_add(1);
    }

    fn check_post(&mut self, name: &str, message: &str, id: Option<&str>) -> Result<NewPost, Refused> {
        let max = self.shared.limits.message_bytes;
        if message.len() > max {
            let text = format!("a message has at most {max} bytes, this one has {}", message.len());
            return Err(Refused::new(Code::MessageTooLong, text));
        }
        let group = match self.memberships.find(name) {
            Some(membership) => membership.group().clone(),
            None => self.shared.rules.group(name).map_err(|e| Refused::new(Code::BadGroupName, e.to_string()))?,
        };
        self.may_post(&group)?;
        let id = id.map(PostId::new).transpose().map_err(|e| Refused::new(Code::BadPostId, e.to_string()))?;
        self.take_from_bucket()?;
        Ok(NewPost { group, message: Arc::from(message), id, trace: None, weight: None })
    }

    /// Counts what a group gets to read of the client; it may be too much of late.
    pub(super) fn take_from_bucket(&mut self) -> Result<(), Refused> {
        let now = self.read_at();
        if let Some(Err(wait)) = self.bucket.as_mut().map(|bucket| bucket.take(now)) {
            let max = self.shared.limits.posts_per_second;
            let text =
                format!("at most {max} posts per second: try again in {} ms", wait.as_nanos().div_ceil(1_000_000));
            return Err(Refused { retry_after: Some(wait), ..Refused::new(Code::RateLimited, text) });
        }
        Ok(())
    }

    fn page(&self, limit: Option<u64>) -> usize {
        let max = self.shared.limits.page;
        limit.map_or(max, |limit| usize::try_from(limit).unwrap_or(max).clamp(1, max))
    }

    fn on_history(&mut self, request: &extended::HistoryRequest<'_>) {
        let Some(group) = self.group(&request.group_name, "History") else { return };
        if !self.may_read("History", &group) {
            return;
        }
        let range = match (request.after, request.before) {
            (Some(_), Some(_)) => {
                let text = "give 'after' or 'before', not both";
                self.refuse(Refused::new(Code::BadRequest, text).about("History", &request.group_name));
                return;
            }
            (Some(after), None) => Range::After(after),
            (None, before) => Range::Before(before.unwrap_or(u64::MAX)),
        };
        self.send_gathered();
        let limit = PageLimit { records: self.page(request.limit), bytes: HISTORY_BYTES };
        let shards = self.shared.shards.clone();
        let Some((session, _)) = &self.voice else { return };
        let session = Arc::clone(session);
        self.question = Some(Box::pin(async move {
            // Whoever may not join may not read.
            if let Err(refusal) = shards.holds().check(&group, &session) {
                return Reply::Refused { request: "History", group, refusal };
            }
            let status = shards.directory().get(group.as_str());
            let told = status.as_ref().map_or((0, 0), |status| (status.epoch(), status.head()));
            let page = shards.read(&group, range, limit).await;
            // What its members were told of is not to be missing without a word.
            let is_behind = |page: &Page| page.head.epoch == told.0 && page.head.seq < told.1;
            let page = match page {
                Ok(Some(page)) if is_behind(&page) => Err(ReadError { reason: "the log is behind".to_owned() }),
                page => page,
            };
            let loaded = shards.directory().get(group.as_str()).map(|status| status.epoch());
            let epoch = match (&page, loaded) {
                // Another node may have it in memory, and nobody has posted yet.
                (Ok(None), None) => shards.group(&group).await.ok().flatten().map(|listed| listed.epoch()),
                (_, loaded) => loaded,
            };
            Reply::History { group, range, page, epoch }
        }));
    }

    fn on_members(&mut self, request: &extended::MembersRequest<'_>) {
        let Some(group) = self.group(&request.group_name, "Members") else { return };
        if !self.may_read("Members", &group) {
            return;
        }
        self.send_gathered();
        let limit = self.page(request.limit);
        let after = request.after.as_ref().map(|after| after.clone().into_owned());
        let shards = self.shared.shards.clone();
        let Some((session, _)) = &self.voice else { return };
        let session = Arc::clone(session);
        self.question = Some(Box::pin(async move {
            if let Err(refusal) = shards.holds().check(&group, &session) {
                return Reply::Refused { request: "Members", group, refusal };
            }
            let page = shards.users(group.clone(), after.as_deref(), limit).await;
            Reply::Members { group, page }
        }));
    }

    fn on_groups(&mut self, request: &extended::GroupsRequest<'_>) {
        self.send_gathered();
        let limit = self.page(request.limit);
        let prefix = request.prefix.as_deref().unwrap_or_default().to_owned();
        let after = request.after.as_ref().map(|after| after.clone().into_owned());
        let shards = self.shared.shards.clone();
        let readable = self.rights.as_ref().map(|rights| rights.read.clone());
        if let Some(readable) = &readable {
            // Each is looked up.
            let parts = readable.parts(&prefix, after.as_deref().unwrap_or_default()).len();
            self.pace(parts.min(limit));
        }
        self.question = Some(Box::pin(async move {
            let after = after.as_deref();
            Reply::Groups(match readable {
                None => shards.groups(&prefix, after, limit).await,
                Some(readable) => rights::groups(&shards, &readable, &prefix, after, limit).await,
            })
        }));
    }
}

fn join_from(join: &extended::Join<'_>) -> Result<JoinFrom, &'static str> {
    match (join.after, join.last) {
        (Some(_), Some(_)) => Err("give 'after' or 'last', not both"),
        (Some(seq), None) => Ok(JoinFrom::After { seq, epoch: join.epoch }),
        (None, Some(count)) => Ok(JoinFrom::Last(count)),
        (None, None) => Ok(JoinFrom::Now),
    }
}

/// What was refused, so that whoever sent it finds it. What is cut is too long to be taken for another one.
fn told(text: &str) -> String {
    const MOST: usize = 512;
    text.chars().take(MOST).collect()
}
