//! Clients that talk without a pause, whatever happens to the node they are connected to: they connect to another one, resume, and
//! post again what was not answered.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::checker::Verdict;
use harness::deadline::{PATIENCE, within};
use harness::recording::{Event, Recording, Rejected};
use harness::{Client, Connector, check};
use tertulia_protocol::code::Code;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Between two posts of one client, on average.
pub(crate) const PAUSE: Duration = Duration::from_millis(25);
/// Before a client connects again, or posts again what was refused.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);
/// A post that was not answered for so long, on a connection that is up, is a failure.
const UNANSWERED: Duration = Duration::from_secs(110);
/// An answer that takes longer is noted.
const SLOW: Duration = Duration::from_millis(50);
/// The last thing that is said in each group.
pub(crate) const CURTAIN: &str = "=curtain=";

/// Where the nodes are now, by place; `None` while one is down.
pub(crate) type Places = Arc<Mutex<Vec<Option<SocketAddr>>>>;

/// What took long: when it came, how long it took, and in which group an answer was awaited, or that it was another connection.
pub(crate) type SlowAnswer = (Instant, Duration, String);

/// Tells what it saw: recordings of all its connections, and how long the slowest answer took.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) recordings: Vec<Recording>,
    pub(crate) slow: Vec<SlowAnswer>,
    pub(crate) refused: Vec<Arc<Rejected>>,
}

/// A client.
pub(crate) struct Talker {
    user: String,
    home: usize,
    places: Places,
    connector: Connector,
    groups: Vec<String>,
    /// Until when to talk.
    hush: watch::Receiver<bool>,
    /// Decides what it says where, and when.
    random: fastrand::Rng,
    /// Told once when all that was said is answered.
    calm: Option<mpsc::UnboundedSender<()>>,
    /// Group, id, text and when it was posted first, by number.
    unanswered: BTreeMap<u64, (String, String, Instant)>,
    next: u64,
    resume: HashMap<String, (u64, u64)>,
    /// Since when it has no connection on which it is in all groups.
    away: Option<Instant>,
    story: Story,
}

impl Talker {
    /// Starts a client that talks in `groups`, at first on the node in the place `home`; `random` decides what it says where, and when.
    pub(crate) fn start(
        (home, random): (usize, fastrand::Rng),
        places: &Places,
        connector: &Connector,
        groups: &[String],
        hush: &watch::Receiver<bool>,
        calm: &mpsc::UnboundedSender<()>,
    ) -> JoinHandle<Result<Story>> {
        let talker = Self {
            user: format!("user-{home}"),
            home,
            random,
            places: Arc::clone(places),
            connector: connector.clone(),
            groups: groups.to_vec(),
            hush: hush.clone(),
            calm: Some(calm.clone()),
            unanswered: BTreeMap::new(),
            next: 1,
            resume: HashMap::new(),
            away: None,
            story: Story::default(),
        };
        tokio::spawn(talker.run())
    }

    async fn run(mut self) -> Result<Story> {
        loop {
            let Some(client) = self.connect().await else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            if let Some(settled) = self.talk(client).await? {
                self.story.recordings.push(settled);
                return Ok(self.story);
            }
        }
    }

    /// The next node that is there, beginning with the one that was there last.
    async fn connect(&mut self) -> Option<Client> {
        let address = {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let count = places.len();
            let place = (0..count).map(|step| (self.home + step) % count).find(|place| places[*place].is_some())?;
            self.home = place;
            places[place]?
        };
        let client = self.connector.at(address).extended(&self.user).await.ok();
        if client.is_none() {
            self.home += 1;
        }
        client
    }

    /// Talks on one connection; `None` when it has ended before all was said and seen.
    async fn talk(&mut self, mut client: Client) -> Result<Option<Recording>> {
        let mut missing: HashMap<String, ()> = HashMap::new();
        for group in self.groups.clone() {
            let from = self.resume.get(&group).copied();
            missing.insert(group.clone(), ());
            if !join(&mut client, &group, from).await {
                return Ok(self.cut(client));
            }
        }
        for (number, (group, text, _)) in self.unanswered.clone() {
            if client.writer.post(&group, &text, Some(&number.to_string())).await.is_err() {
                return Ok(self.cut(client));
            }
        }
        let mut again: Vec<(Instant, Again)> = Vec::new();
        let mut curtains = 0;
        loop {
            let quiet = *self.hush.borrow();
            let pause = PAUSE.mul_f64(0.5 + self.random.f64());
            let event = tokio::select! {
                event = client.reader.next() => event?,
                () = tokio::time::sleep(pause) => {
                    if let Some((_, (.., text, since))) = self.unanswered.first_key_value() {
                        ensure!(since.elapsed() < UNANSWERED, "{}: {text:?} is not answered", self.user);
                    }
                    let due = again.extract_if(.., |(when, _)| *when <= Instant::now());
                    for (_, what) in due.collect::<Vec<_>>() {
                        let sent = match what {
                            Again::Join(group) => {
                                let from = self.resume_of(&client, &group);
                                join(&mut client, &group, from).await
                            }
                            Again::Post(number) => match self.unanswered.get(&number) {
                                Some((group, text, _)) => {
                                    client.writer.post(group, text, Some(&number.to_string())).await.is_ok()
                                }
                                None => true,
                            },
                        };
                        if !sent {
                            return Ok(self.cut(client));
                        }
                    }
                    if quiet
                        && missing.is_empty()
                        && self.unanswered.is_empty()
                        && let Some(calm) = self.calm.take()
                    {
                        calm.send(())?;
                    }
                    if !quiet && missing.is_empty() && !self.post(&mut client).await {
                        return Ok(self.cut(client));
                    }
                    continue;
                }
            };
            match event {
                None | Some(Event::GoingAway(_)) => return Ok(self.cut(client)),
                Some(Event::Joined(joined)) => {
                    missing.remove(&*joined.group);
                    if missing.is_empty()
                        && let Some(away) = self.away.take()
                        && away.elapsed() > SLOW
                    {
                        self.story.slow.push((Instant::now(), away.elapsed(), "another connection".to_owned()));
                    }
                }
                Some(Event::Posted(posted)) => self.answered(posted.id.as_deref()),
                Some(Event::Rejected(it)) => {
                    ensure!(matches!(it.code, Code::Unavailable | Code::Draining), "{}: {it:?}", self.user);
                    self.story.refused.push(Arc::clone(&it));
                    let when = Instant::now() + AGAIN;
                    match (it.request.as_deref(), it.id.as_deref().and_then(|id| id.parse().ok()), &it.group) {
                        (Some("Post"), Some(number), _) => again.push((when, Again::Post(number))),
                        (Some("Join"), _, Some(group)) => again.push((when, Again::Join(group.to_string()))),
                        _ => bail!("{}: {it:?}", self.user),
                    }
                }
                Some(Event::Message(message)) if &*message.text == CURTAIN => {
                    curtains += 1;
                    if curtains == self.groups.len() {
                        ensure!(self.unanswered.is_empty(), "{}: {:?} not answered", self.user, self.unanswered);
                        return Ok(Some(client.settled()));
                    }
                }
                Some(Event::Left(left)) => bail!("{}: {left:?}", self.user),
                Some(_) => {}
            }
        }
    }

    fn resume_of(&self, client: &Client, group: &str) -> Option<(u64, u64)> {
        client.resume_point(group).or_else(|| self.resume.get(group).copied())
    }

    async fn post(&mut self, client: &mut Client) -> bool {
        let group = self.groups[self.random.usize(..self.groups.len())].clone();
        let text = format!("{} says {}", self.user, self.next);
        let id = self.next.to_string();
        self.unanswered.insert(self.next, (group.clone(), text.clone(), Instant::now()));
        self.next += 1;
        client.writer.post(&group, &text, Some(&id)).await.is_ok()
    }

    fn answered(&mut self, id: Option<&str>) {
        let number = id.and_then(|id| id.parse().ok()).unwrap_or(0);
        if let Some((group, _, since)) = self.unanswered.remove(&number)
            && since.elapsed() > SLOW
        {
            self.story.slow.push((Instant::now(), since.elapsed(), group));
        }
    }

    fn cut(&mut self, client: Client) -> Option<Recording> {
        for group in &self.groups {
            if let Some(place) = client.resume_point(group) {
                self.resume.insert(group.clone(), place);
            }
        }
        self.story.recordings.push(client.cut());
        self.home += 1;
        self.away.get_or_insert_with(Instant::now);
        None
    }
}

/// Clients that talk until they are told to be quiet.
pub(crate) struct Talk {
    talkers: Vec<JoinHandle<Result<Story>>>,
    hush: watch::Sender<bool>,
    calmed: mpsc::UnboundedReceiver<()>,
}

impl Talk {
    /// Starts so many of them, who talk in all `groups`, one after the other at home in another place.
    pub(crate) fn start(count: usize, places: &Places, connector: &Connector, groups: &[String]) -> Self {
        let (hush, quiet) = watch::channel(false);
        let (calm, calmed) = mpsc::unbounded_channel();
        let start = |number| Talker::start((number, fastrand::Rng::new()), places, connector, groups, &quiet, &calm);
        Self { talkers: (0..count).map(start).collect(), hush, calmed }
    }

    /// Ends it, see [`conclude`].
    pub(crate) async fn conclude(self, observer: Client, groups: &[String]) -> Result<(Verdict, Vec<SlowAnswer>)> {
        self.hush.send_replace(true);
        conclude(self.talkers, self.calmed, observer, groups).await
    }
}

/// Somebody who is in all groups and says nothing.
pub(crate) async fn observer(connector: &Connector, groups: &[String]) -> Result<Client> {
    let mut observer = connector.extended("observer").await?;
    for group in groups {
        observer.join(group).await?;
    }
    Ok(observer)
}

/// Waits until everybody who talks has been told to stop and has all answers; one that fails ends the waiting.
pub(crate) async fn all_answered(
    calmed: &mut mpsc::UnboundedReceiver<()>,
    count: usize,
    patience: Duration,
) -> Result<()> {
    for _ in 0..count {
        within(patience, "the talkers to have all their answers", async { calmed.recv().await.context("one failed") })
            .await?;
    }
    Ok(())
}

/// Says the last thing in every group once all has been answered, and judges what everybody saw. No post may have been refused.
/// Tells the answers that took long as well.
pub(crate) async fn conclude(
    talkers: Vec<JoinHandle<Result<Story>>>,
    mut calmed: mpsc::UnboundedReceiver<()>,
    mut observer: Client,
    groups: &[String],
) -> Result<(Verdict, Vec<SlowAnswer>)> {
    all_answered(&mut calmed, talkers.len(), PATIENCE).await?;
    for group in groups {
        observer.post(group, CURTAIN, CURTAIN).await?;
    }
    let (mut recordings, mut slow) = (Vec::new(), Vec::new());
    for talker in talkers {
        let story = talker.await??;
        ensure!(story.refused.is_empty(), "refused: {:?}", story.refused);
        slow.extend(story.slow);
        recordings.extend(story.recordings);
    }
    let mut logs = Vec::new();
    for group in groups {
        observer.reader.until_text(group, CURTAIN).await?;
        logs.push(observer.read_log(group).await?);
    }
    recordings.push(observer.settled());
    let verdict = check(&recordings, &logs);
    verdict.assert_clean();
    ensure!(verdict.facts.acknowledged > 300, "{verdict}");
    Ok((verdict, slow))
}

/// What is to be tried again.
enum Again {
    Join(String),
    Post(u64),
}

async fn join(client: &mut Client, group: &str, from: Option<(u64, u64)>) -> bool {
    let (after, epoch) = (from.map(|(seq, _)| seq), from.map(|(_, epoch)| epoch));
    client.writer.join_from(group, after, None, epoch).await.is_ok()
}
