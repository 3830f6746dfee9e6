//! A study's requests in rounds: what it asks together goes out together, at the batch API's price; what is not there in
//! time is cancelled there, and asked for in the ordinary way.
//!
//! A study that was killed asks the same again. What it had submitted is found by its fingerprint, waited for, and not
//! submitted again: the money that is held for it is the same.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::plan::{self, Need};
use super::{Batches, addressed};
use crate::diagnostic::{Error, Result};
use crate::money::Usd;
use crate::price::Price;
use crate::provider::{FailureKind, Request};
use crate::runner::bulk::{Bulk, Delivered, Delivery, Order};
use crate::store::batches::{BatchId, BatchRecord, Stage};
use crate::store::{Fingerprint, Stored, now};

pub use super::plan::price;

/// Buys the requests of one scope in rounds.
pub struct Rounds {
    buyer: Arc<Buyer>,
    /// The way to the task that buys; begun with the first order.
    queue: OnceLock<mpsc::UnboundedSender<Message>>,
}

struct Buyer {
    batches: Batches,
    scope: String,
    /// How long a round may take before what is missing is asked for in the ordinary way.
    wait: Option<Duration>,
}

enum Message {
    Order(Box<Order>, oneshot::Sender<Result<Delivered>>),
    Close,
}

/// Someone who waits for an order.
struct Waiting {
    order: Order,
    reply: oneshot::Sender<Result<Delivered>>,
}

impl Rounds {
    /// Buys for a scope.
    pub fn new(batches: Batches, scope: &str, wait: Option<Duration>) -> Rounds {
        Rounds { buyer: Arc::new(Buyer { batches, scope: scope.to_owned(), wait }), queue: OnceLock::new() }
    }

    /// What the ledger holds for this scope's batches that are out from an earlier time: those requests will be ordered
    /// again, and then the money is held for the order.
    pub fn held(&self) -> Result<Usd> {
        let inner = &self.buyer.batches.inner;
        let mut held = Usd::ZERO;
        let ours = |record: &BatchRecord| record.scope == self.buyer.scope;
        let mut seen = HashSet::new();
        for record in inner.store.batches(true)?.into_iter().filter(ours) {
            for page in inner.open_pages(record.id) {
                let prints: Vec<Fingerprint> =
                    page?.iter().map(|line| line.fingerprint).filter(|print| seen.insert(*print)).collect();
                for way in inner.store.under_way(&prints)? {
                    let own = way.held.iter().filter(|(scope, _)| *scope == self.buyer.scope);
                    held += own.map(|(_, worst)| *worst).sum();
                }
            }
        }
        Ok(held)
    }

    /// Every one of these models can be bought so; else a usage error that says why not.
    pub fn check(&self, models: &[String]) -> Result<()> {
        let inner = &self.buyer.batches.inner;
        for name in models {
            let service = inner.service(name)?;
            inner.link_of(&service.model)?;
        }
        Ok(())
    }
}

impl Bulk for Rounds {
    fn order(&self, order: Order) -> Delivery {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(self.buyer.clone().run(receiver));
            sender
        });
        // Where the buyer has ended, its end of the reply is dropped, and the answer is the error below.
        drop(queue.send(Message::Order(Box::new(order), reply)));
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| Err(Error::internal("buying in rounds ended before its time")))
        })
    }

    fn close(&self) {
        if let Some(queue) = self.queue.get() {
            drop(queue.send(Message::Close));
        }
    }
}

impl Buyer {
    /// Buys round after round: what is ordered while one is out is the next one.
    async fn run(self: Arc<Self>, mut queue: mpsc::UnboundedReceiver<Message>) {
        let mut round = Vec::new();
        while let Some(message) = queue.recv().await {
            match message {
                Message::Order(order, reply) => round.push(Waiting { order: *order, reply }),
                Message::Close if round.is_empty() => {}
                Message::Close => {
                    let mut waiting = std::mem::take(&mut round);
                    if let Err(error) = self.buy(&mut waiting).await {
                        for one in waiting {
                            drop(one.reply.send(Err(error.clone())));
                        }
                    }
                }
            }
        }
    }

    async fn buy(&self, waiting: &mut Vec<Waiting>) -> Result<()> {
        let inner = &self.batches.inner;
        let out = self.write_down(waiting).await?;
        let wanted = |record: &BatchRecord| out.contains(&record.id) || record.scope == self.scope;
        let begun = Instant::now();
        let mut cancelled = HashSet::new();
        loop {
            let open = inner.advance(wanted).await?;
            self.deliver(waiting, false)?;
            if open.is_empty() || waiting.is_empty() {
                break;
            }
            for record in open {
                // Whoever resumes a study waits no longer for what is out already.
                let waited = Duration::from_secs(now().saturating_sub(record.created_at).unsigned_abs());
                let late = self.wait.is_some_and(|wait| begun.elapsed().max(waited) > wait);
                if late && matches!(record.progress.stage, Stage::Planned | Stage::Out) && cancelled.insert(record.id) {
                    tracing::info!(batch = record.id.0, "not there in time: the rest is asked for in the ordinary way");
                    inner.cancel_batch(record).await?;
                }
            }
            tokio::time::sleep(inner.pause(begun.elapsed())).await;
        }
        self.deliver(waiting, true)
    }

    /// Writes down what is missing of the orders; the batches that they are in.
    async fn write_down(&self, waiting: &[Waiting]) -> Result<HashSet<BatchId>> {
        let inner = &self.batches.inner;
        for _ in 0..100 {
            let after = inner.store.batches(false)?.last().map(|batch| batch.id);
            let mut out = HashSet::new();
            let mut needs: Vec<Need<'_>> = Vec::new();
            for page in waiting.chunks(super::PAGE) {
                let prints: Vec<Fingerprint> = page.iter().map(|one| one.order.fingerprint).collect();
                let stored = inner.store.stored_many(&prints)?;
                let ways = inner.store.under_way(&prints)?;
                for ((one, stored), way) in page.iter().zip(stored).zip(ways) {
                    let Order { model, request, fingerprint, .. } = &one.order;
                    let missing = request.n.saturating_sub(stored.len() as u32).saturating_sub(way.samples);
                    out.extend(way.batches);
                    if missing > 0 {
                        let service = inner.service(model)?;
                        let request: Cow<'_, Request> = addressed(&service, request);
                        needs.push(Need { service, request, fingerprint: *fingerprint, missing });
                    }
                }
            }
            // The orders are held for by whoever gave them.
            if let Some(written) = inner.write_down(&self.scope, &needs, None, after).await? {
                out.extend(written.batches);
                return Ok(out);
            }
        }
        Err(Error::internal("other programs write batches down again and again"))
    }

    /// Answers those whose orders have come to an end; all of them, where nothing is out any more.
    fn deliver(&self, waiting: &mut Vec<Waiting>, all: bool) -> Result<()> {
        let inner = &self.batches.inner;
        let mut rest = Vec::new();
        let mut orders = std::mem::take(waiting).into_iter();
        loop {
            let page: Vec<Waiting> = orders.by_ref().take(super::PAGE).collect();
            if page.is_empty() {
                break;
            }
            let prints: Vec<Fingerprint> = page.iter().map(|one| one.order.fingerprint).collect();
            let looked =
                inner.store.stored_many(&prints).and_then(|stored| Ok((stored, inner.store.under_way(&prints)?)));
            let (stored, ways) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    // Whoever is not answered yet hears of it from the caller.
                    waiting.extend(rest.into_iter().chain(page).chain(orders));
                    return Err(error);
                }
            };
            for ((one, stored), way) in page.into_iter().zip(stored).zip(ways) {
                let whole = stored.len() >= one.order.request.n as usize;
                if !(whole || all || way.samples == 0) {
                    rest.push(one);
                    continue;
                }
                let service = inner.service(&one.order.model)?;
                let price = plan::price(&service.model).unwrap_or(Price::FREE);
                let (mut paid, requests) = paid(&price, &stored, one.order.stored);
                let failed = way.failed.filter(|_| !whole).map(|failed| failed.failure);
                // What may have been billed without an answer, as the ledger has it.
                paid += way.lost.iter().filter(|(scope, _)| *scope == self.scope).map(|(_, worst)| *worst).sum();
                let failure = failed.filter(|failure| for_good(failure.kind));
                let requests = requests + u64::from(failure.is_some());
                drop(one.reply.send(Ok(Delivered { paid, requests, failure })));
            }
        }
        *waiting = rest;
        Ok(())
    }
}

/// What an order cost: the responses that came since it was given.
fn paid(price: &Price, stored: &Stored, before: usize) -> (Usd, u64) {
    let new = stored.purchases.iter().filter(|purchase| purchase.first >= before);
    new.fold((Usd::ZERO, 0), |(sum, count), purchase| (sum + price.bill(&purchase.response), count + 1))
}

/// Asking for it in the ordinary way would bring nothing better.
fn for_good(kind: FailureKind) -> bool {
    !super::land::retryable(kind)
}
