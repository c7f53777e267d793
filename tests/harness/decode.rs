//! Reads what a server sends into events, and keeps once what many connections receive alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tertulia_protocol::classic;
use tertulia_protocol::codec::{decode_classic_server, decode_server};
use tertulia_protocol::extended::{self, FromServer};

use crate::recording::{
    Event, GroupSummary, Groups, History, Joined, Lagged, Left, Members, Message, Posted, Rejected, Text, Welcome,
};

/// Keeps once what many connections receive alike: a message that comes with the same bytes is the same [`Arc`].
#[derive(Debug, Default)]
pub struct Shared {
    messages: Mutex<HashMap<Box<[u8]>, Arc<Message>>>,
    texts: Mutex<HashMap<Box<[u8]>, Arc<Text>>>,
}

/// How the lines begin that are worth keeping once.
const MESSAGE: &[u8] = br#"{"Message":"#;

impl Shared {
    /// Reads a line that a server sent to an extended client.
    ///
    /// # Errors
    /// If it is not of the documented shape.
    pub fn extended(&self, line: &[u8]) -> Result<Event> {
        if !line.starts_with(MESSAGE) {
            return read_extended(line);
        }
        let mut known = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = known.get(line) {
            return Ok(Event::Message(Arc::clone(message)));
        }
        let event = read_extended(line)?;
        if let Event::Message(message) = &event {
            known.insert(line.into(), Arc::clone(message));
        }
        Ok(event)
    }

    /// Reads a line that a server sent to a classic client.
    ///
    /// # Errors
    /// If it is not of the documented shape.
    pub fn classic(&self, line: &[u8]) -> Result<Event> {
        if !line.starts_with(MESSAGE) {
            return read_classic(line);
        }
        let mut known = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = known.get(line) {
            return Ok(Event::Text(Arc::clone(text)));
        }
        let event = read_classic(line)?;
        if let Event::Text(text) = &event {
            known.insert(line.into(), Arc::clone(text));
        }
        Ok(event)
    }
}

fn unreadable(line: &[u8]) -> String {
    format!("the server sent {:?}", String::from_utf8_lossy(line))
}

fn read_classic(line: &[u8]) -> Result<Event> {
    Ok(match decode_classic_server(line).with_context(|| unreadable(line))? {
        classic::FromServer::Message { group_name, message } => {
            Event::Text(Arc::new(Text { group: group_name.into(), text: message.into() }))
        }
        classic::FromServer::Error(text) => Event::Error(text.into()),
    })
}

fn read_extended(line: &[u8]) -> Result<Event> {
    let Some(frame) = decode_server(line).with_context(|| unreadable(line))? else { return Ok(Event::Unknown) };
    Ok(match frame {
        FromServer::Welcome(it) => Event::Welcome(Arc::new(Welcome {
            version: it.version,
            server: it.server.into(),
            session: it.session.into(),
            user: it.user.into(),
            limits: it.limits,
            heartbeat: it.heartbeat,
        })),
        FromServer::Joined(it) => Event::Joined(Arc::new(Joined {
            group: it.group_name.into(),
            epoch: it.epoch,
            head: it.head,
            members: it.members,
            recovered: it.recovered,
        })),
        FromServer::Left(it) => Event::Left(Arc::new(Left {
            group: it.group_name.into(),
            reason: it.reason,
            detail: it.detail.map(Into::into),
        })),
        FromServer::Posted(it) => Event::Posted(Arc::new(Posted {
            group: it.group_name.into(),
            id: it.id.map(Into::into),
            epoch: it.epoch,
            seq: it.seq,
            at: it.at,
        })),
        FromServer::Message(it) => Event::Message(Arc::new(Message {
            group: it.group_name.into(),
            seq: it.seq,
            sender: it.sender.into(),
            text: it.message.into(),
            at: it.at,
            id: it.id.map(Into::into),
            removed: it.removed,
            removes: it.removes.map(read_removal),
        })),
        FromServer::Lagged(it) => {
            Event::Lagged(Arc::new(Lagged { group: it.group_name.into(), first: it.first, last: it.last }))
        }
        FromServer::History(it) => Event::History(Arc::new(read_history(it))),
        FromServer::Members(it) => Event::Members(Arc::new(Members {
            group: it.group_name.into(),
            users: it.members.into_iter().map(Into::into).collect(),
            more: it.more,
        })),
        FromServer::Groups(it) => Event::Groups(Arc::new(read_groups(it))),
        FromServer::Refreshed { .. } => Event::Refreshed,
        FromServer::Removed(_) => Event::Removed,
        FromServer::Ping {} => Event::Ping,
        FromServer::Pong {} => Event::Pong,
        FromServer::GoingAway(it) => Event::GoingAway(Arc::new((it.reason.into(), it.reconnect_after_ms))),
        FromServer::Rejected(it) => Event::Rejected(Arc::new(Rejected {
            code: it.code,
            message: it.message.into(),
            request: it.request.map(Into::into),
            group: it.group_name.map(Into::into),
            id: it.id.map(Into::into),
            retry_after_ms: it.retry_after_ms,
            outcome_unknown: it.outcome_unknown,
        })),
        FromServer::Error(text) => Event::Error(text.into()),
    })
}

fn read_history(it: extended::History<'_>) -> History {
    let group: Arc<str> = it.group_name.into();
    let messages = it.messages.into_iter().map(|past| {
        Arc::new(Message {
            group: Arc::clone(&group),
            seq: past.seq,
            sender: past.sender.into(),
            text: past.message.into(),
            at: past.at,
            id: past.id.map(Into::into),
            removed: past.removed,
            removes: past.removes.map(read_removal),
        })
    });
    let messages = messages.collect();
    History { group, epoch: it.epoch, messages, more: it.more }
}

fn read_removal(it: extended::Removal<'_>) -> (u64, u64, Option<Arc<str>>) {
    (it.first, it.last, it.sender.map(Into::into))
}

fn read_groups(it: extended::Groups<'_>) -> Groups {
    let groups = it.groups.into_iter().map(|group| GroupSummary {
        group: group.group_name.into(),
        members: group.members,
        head: group.head,
    });
    Groups { groups: groups.collect(), more: it.more }
}
