//! What moderators hold: seen, and ended before its time.

use std::net::IpAddr;
use std::time::Duration;

use tertulia_proto::admin::v1::{
    Hold as Told, ListHoldsRequest, ListHoldsResponse, RemoveHoldRequest, RemoveHoldResponse, hold,
};
use tertulia_protocol::GroupName;

use super::arguments;
use super::gate::Peer;
use super::moderation::Account;
use super::pages::{self, List};
use super::service::Service;
use super::status::Error;
use crate::shard::{Hold, Target, holds::Place};

impl Service {
    pub(super) fn holds_page(&self, request: &ListHoldsRequest) -> Result<ListHoldsResponse, Error> {
        let ListHoldsRequest { group_name, user, address, page_size, page_token } = request;
        let list = List { name: "holds", filters: &[group_name, user, address] };
        let size = pages::size(*page_size)?;
        let after = list.after::<3>(page_token)?.map(place).transpose()?;
        let group = arguments::group_or_all(group_name)?;
        let user = if user.is_empty() { None } else { Some(Target::User(arguments::user(user)?)) };
        let address = if address.is_empty() { None } else { Some(of_address(arguments::address(address)?)) };
        let passes = |of: Option<&GroupName>, whom: Option<&Target>| {
            group.as_ref().is_none_or(|group| of.is_none_or(|of| of == group))
                && user.as_ref().is_none_or(|user| whom == Some(user))
                && address.as_ref().is_none_or(|of_address| whom.is_some_and(|whom| of_address.contains(whom)))
        };
        let mut holds = self.shards.holds().list(after.as_ref(), size + 1, passes);
        let more = holds.len() > size;
        holds.truncate(size);
        let next_page_token = match holds.last() {
            Some(last) if more => {
                let (group, kind, name) = names(last);
                list.token(&[group, kind, &name])
            }
            _ => String::new(),
        };
        Ok(ListHoldsResponse { holds: holds.iter().map(tell).collect(), next_page_token })
    }

    pub(super) async fn end_hold(&self, peer: Peer, request: RemoveHoldRequest) -> Result<RemoveHoldResponse, Error> {
        let group = arguments::group_or_all(&request.group_name)?;
        let target = arguments::hold_target(request.target)?;
        if group.is_none() && target.is_none() {
            return Err(Error::argument("a group or a target is needed: user, connection_id or address"));
        }
        let mut account = Account::new("RemoveHold", peer, group.as_ref(), target.as_ref(), None);
        let holds = self.shards.holds();
        let ending = async {
            let (target, of_before) = match target {
                Some(Target::Address(address)) => {
                    let [network, alone] = of_address(address);
                    let of_before = holds.find((group.clone(), Some(alone.clone()))).filter(|_| alone != network);
                    (Some(network), of_before)
                }
                target => (target, None),
            };
            if let Some(Hold { group, target, .. }) = of_before.clone() {
                holds.keep(Hold::new(group, target, Duration::ZERO)).await?;
            }
            let found = holds.find((group.clone(), target.clone()));
            // Also one that this node does not know of yet.
            holds.keep(Hold::new(group, target, Duration::ZERO)).await?;
            Ok(found.or(of_before))
        };
        let removed = account.close(ending.await, |found| match found {
            Some(_) => "ended".to_owned(),
            None => "there was none".to_owned(),
        })?;
        Ok(RemoveHoldResponse { removed: removed.as_ref().map(tell) })
    }
}

/// By what somebody from this address is held: what is held now, and what builds held that did not hold a network of IPv6.
fn of_address(address: IpAddr) -> [Target; 2] {
    [Target::from_address(address), Target::Address(address)]
}

/// The parts of a page token.
fn names(hold: &Hold) -> (&str, &'static str, String) {
    let group = hold.group.as_ref().map_or("", GroupName::as_str);
    let (kind, name) = match &hold.target {
        None => ("", String::new()),
        Some(Target::User(user)) => ("user", user.to_string()),
        Some(Target::Connection(id)) => ("connection", id.to_string()),
        Some(Target::Address(address)) => ("address", address.to_string()),
    };
    (group, kind, name)
}

fn place([group, kind, name]: [String; 3]) -> Result<Place, Error> {
    let target = match kind.as_str() {
        "user" => Some(Target::User(arguments::user(&name)?)),
        "connection" => Some(Target::Connection(arguments::connection(&name)?)),
        "address" => Some(Target::Address(arguments::address(&name)?)),
        _ => None,
    };
    Ok((arguments::group_or_all(&group)?, target))
}

fn tell(hold: &Hold) -> Told {
    let target = hold.target.as_ref().map(|target| match target {
        Target::User(user) => hold::Target::User(user.to_string()),
        Target::Connection(id) => hold::Target::ConnectionId(id.to_string()),
        Target::Address(address) => hold::Target::Address(address.to_string()),
    });
    Told {
        group_name: hold.group.as_ref().map(ToString::to_string).unwrap_or_default(),
        target,
        until: Some(tertulia_proto::timestamp(hold.until)),
        reason: hold.reason.as_deref().unwrap_or_default().to_owned(),
    }
}
