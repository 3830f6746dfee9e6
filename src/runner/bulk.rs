//! Buying in rounds: requests that are known together are bought together, before anyone asks for them one by one.

use std::future::Future;
use std::pin::Pin;

use crate::backend::Model;
use crate::diagnostic::Result;
use crate::money::Usd;
use crate::price::Price;
use crate::provider::{Failure, Request};
use crate::store::Fingerprint;

/// A request whose missing samples are to be bought with others.
#[derive(Clone, Debug)]
pub struct Order {
    /// The model, by the user's name for it.
    pub model: String,
    /// The request, for all samples that are wanted of it.
    pub request: Request,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// How many samples were stored when it was ordered.
    pub stored: usize,
}

/// The price of a model where it is bought in rounds.
pub type PriceOf = fn(&Model) -> Option<Price>;

/// What became of an order.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// What was billed for it, or may have been.
    pub paid: Usd,
    /// Requests that were sent for it.
    pub requests: u64,
    /// There is no answer, and asking in the ordinary way would bring none. Where this is empty, what the store still
    /// lacks is to be asked for in the ordinary way.
    pub failure: Option<Failure>,
}

/// What an order comes to, some day.
pub type Delivery = Pin<Box<dyn Future<Output = Result<Delivered>> + Send>>;

/// Who buys in rounds.
pub trait Bulk: Send + Sync {
    /// Takes an order. It is durable only when it is delivered, and dropping the delivery takes nothing back.
    fn order(&self, order: Order) -> Delivery;

    /// Nothing more will be ordered before something is delivered.
    fn close(&self);
}
