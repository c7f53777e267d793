//! Classic clients that listen on one node, and post now and then. They hear no answers, and know nothing of ids.

use anyhow::Result;
use harness::Connector;
use harness::recording::{Dialect, Event, Recording};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::talker::{AGAIN, CURTAIN, PAUSE};

/// Tells once that somebody has nothing under way any more, at the latest when it has gone.
struct Calm(Option<mpsc::UnboundedSender<()>>);

impl Calm {
    fn tell(&mut self) {
        if let Some(calm) = self.0.take() {
            // Whoever waited for it may have failed and gone.
            calm.send(()).unwrap_or_default();
        }
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Listens in the classic dialect on one node until the curtain falls or the connection ends, and posts now and then. It is calm once it is
/// to be quiet and has its own last post back. It fails only if the server says what is not of the protocol.
pub(crate) fn listen(
    who: String,
    connector: Connector,
    group: String,
    hush: watch::Receiver<bool>,
    calm: &mpsc::UnboundedSender<()>,
) -> JoinHandle<Result<Recording>> {
    let mut calm = Calm(Some(calm.clone()));
    tokio::spawn(async move {
        // The node may be down or cut off before the connection is made, and then nothing is heard there.
        let Ok(mut client) = connector.classic(&who).await else { return Ok(Recording::new(&who, Dialect::Classic)) };
        if client.writer.join(&group).await.is_err() {
            return Ok(client.cut());
        }
        let mut number = 0;
        let mut is_in = false;
        // What it posted last, until that has come back; and whether that may have been refused.
        let mut awaited: Option<String> = None;
        let mut may_be_refused = false;
        loop {
            let mut says = false;
            tokio::select! {
                event = client.reader.next() => match event? {
                    None => return Ok(client.cut()),
                    Some(Event::Text(text)) if &*text.text == CURTAIN => return Ok(client.settled()),
                    Some(Event::Text(text)) => {
                        is_in = true;
                        awaited = awaited.filter(|awaited| **awaited != *text.text);
                    }
                    // The node was cut off when it was asked: it may know nothing of us.
                    Some(Event::Error(_)) if !is_in => {
                        tokio::time::sleep(AGAIN).await;
                        if client.writer.join(&group).await.is_err() {
                            return Ok(client.cut());
                        }
                    }
                    Some(Event::Error(_)) => may_be_refused = true,
                    Some(_) => {}
                },
                // Whoever was not taken in may post, and then does not get it. And what was refused does not come back: another one does.
                () = tokio::time::sleep(8 * PAUSE) => {
                    says = is_in && (!*hush.borrow() || awaited.is_some() && may_be_refused);
                }
            }
            if says {
                number += 1;
                let text = format!("{who} says {number}");
                if client.writer.post(&group, &text, None).await.is_err() {
                    return Ok(client.cut());
                }
                (awaited, may_be_refused) = (Some(text), false);
            }
            if *hush.borrow() && awaited.is_none() {
                calm.tell();
            }
        }
    })
}
