//! What was said in a group, for those who have to judge it.

use tertulia_proto::admin::v1::{self, ListMessagesRequest, ListMessagesResponse, Message};
use tertulia_protocol::Removal;

use super::arguments;
use super::pages::{self, List};
use super::service::Service;
use super::status::Error;
use crate::shard::{PageLimit, Range, Record};

/// What a page may hold of messages, in bytes.
const BYTES: usize = 1024 * 1024;

impl Service {
    pub(super) async fn messages_page(&self, request: &ListMessagesRequest) -> Result<ListMessagesResponse, Error> {
        let ListMessagesRequest { group_name, user, page_size, page_token } = request;
        let list = List { name: "messages", filters: &[group_name, user] };
        let limit = PageLimit { records: pages::size(*page_size)?, bytes: BYTES };
        let before = list.after::<2>(page_token)?.map(place).transpose()?;
        let group = arguments::group(group_name)?;
        let user = if user.is_empty() { None } else { Some(arguments::sender(user)?) };
        let range = Range::Before(before.map_or(u64::MAX, |(_, seq)| seq));
        let Some(page) = self.shards.read(&group, range, limit).await? else {
            // It may have nothing yet.
            self.find(&group).await?;
            return Ok(ListMessagesResponse::default());
        };
        let epoch = page.head.epoch;
        if before.is_some_and(|(of, _)| of != epoch) {
            return Ok(ListMessagesResponse::default());
        }
        let next_page_token = match page.records.first() {
            Some(oldest) if oldest.seq > page.head.first => list.token(&[&epoch.to_string(), &oldest.seq.to_string()]),
            _ => String::new(),
        };
        let asked_for = |record: &&Record| user.as_ref().is_none_or(|user| record.sender == *user);
        let messages = page.records.iter().rev().filter(asked_for).map(|record| tell(epoch, record)).collect();
        Ok(ListMessagesResponse { messages, next_page_token })
    }
}

/// The life of the group, and the message before which a page begins.
fn place(parts: [String; 2]) -> Result<(u64, u64), Error> {
    let [Ok(epoch), Ok(seq)] = parts.each_ref().map(|part| part.parse()) else {
        return Err(pages::foreign());
    };
    Ok((epoch, seq))
}

fn tell(epoch: u64, record: &Record) -> Message {
    Message {
        seq: record.seq,
        epoch,
        at: Some(tertulia_proto::timestamp(record.at)),
        user: record.sender.as_str().to_owned(),
        id: record.id_of_client().unwrap_or_default().to_owned(),
        text: record.message.to_string(),
        removed: record.is_removed(),
        removes: record.removes().map(|Removal { first, last, sender }| v1::Removal {
            first_seq: first,
            last_seq: last,
            user: sender.unwrap_or_default().to_owned(),
        }),
    }
}
