//! farthing finds the prompt and the settings that do best on *your* task, for as few dollars as it can, and never spends
//! more than you allowed. It is a library and one command-line program.
//!
//! # The tour
//!
//! A [`task::Task`] has instances and an objective; with its metric functions built it is a [`Workload`]. A
//! [`space::Space`] says what may vary; one point of it is a [`space::Configuration`]. A [`study::Study`] searches the
//! space for the configuration that does best on the workload under a budget, and gives an [`study::Outcome`].
//!
//! ```no_run
//! # async fn example() -> farthing::Result<()> {
//! use farthing::{Usd, Workload, space, study::Study};
//! let outcome = Study::builder()
//!     .workload(Workload::load("tasks/arithmetic".as_ref())?)
//!     .space(space::load("search_spaces/arithmetic.toml".as_ref())?)
//!     .budget("0.50".parse().expect("a decimal"))
//!     .build()?
//!     .run()
//!     .await?;
//! println!("{:?}", outcome.summary.best);
//! # Ok(()) }
//! ```
//!
//! A task and a metric of your own in Rust: [`TaskBuilder`], and [`cli::main_for`] gives it the whole command line. The
//! numbered programs under `examples/` are the next thing to read.
//!
//! # The rooms
//!
//! A room uses only rooms below it; none knows the one that calls it.
//!
//! | room | what it does |
//! |---|---|
//! | [`cli`] | what was typed becomes what it means; exit codes |
//! | [`serve`] | what listens on loopback: the mock endpoint |
//! | [`report`] | HTML page, plots, tables, exports: reads a study, changes nothing |
//! | [`client`] | one request at a time, for programs: budget, store, failover, logs |
//! | [`experiment`] | prompts from files: one a row, by groups, in rounds, into a folder; judges, paraphrases |
//! | [`study`] | the loop: ask the search, evaluate, tell it; events, resume, ranking, held-out test |
//! | [`search`] | who decides what to try next: pure, synchronous, no I/O, no clock |
//! | [`evaluate`] | one (configuration, instance) becomes a rendered request, responses, metrics |
//! | [`metric`] | built-in metric functions, votes over n responses, programs of the user's |
//! | [`runner`] | one request answered: single flight, store, budget, rate limit, backend, retry |
//! | [`batch`] | the same requests through the providers' batch APIs: half the price, within a day |
//! | [`backend`] | who answers: over HTTP, from a cassette, the made-up model |
//! | [`provider`] | wire formats as pure functions |
//! | [`space`] | search spaces: parameters, conditions, constraints, sampling |
//! | [`task`] | tasks: instances, splits, objective |
//! | [`prompt`] | templates and rendering; token counting |
//! | [`store`] | the durable things: responses, ledger, failures |
//! | [`models`] | what is known of models: prices, limits, which parameters they take |
//! | [`price`] | the price table; what a response did cost |
//! | [`stats`] | intervals, paired tests, the racing model |
//!
//! Below them all: [`files`] (written whole or not at all), [`data`] (files of rows, unpacked within bounds), [`money`] (integer picodollars), [`event`] (the run as a stream of events), [`declaration`] (TOML with
//! spans) and [`diagnostic`] (errors that say what is wrong, where, and what to do).
//!
//! # Promises
//!
//! - The sum of what endpoints billed never exceeds the budget: the worst case of a request is reserved before it is sent
//!   ([`runner::budget`]), durably ([`store::Store::reserve`]), and settled after.
//! - A response is durable before anything uses it ([`store::Store::record`]): the same thing asked again costs nothing.
//! - Decisions depend on the order in which work was asked for, never on the order in which replies came back
//!   ([`study::pipeline`]): the same seed gives the same answer at any concurrency.

// One that cannot be written would panic, and leave what is being paid for.
#![deny(clippy::print_stderr)]

pub mod backend;
pub mod batch;
pub mod cli;
pub mod client;
pub mod data;
pub mod declaration;
pub mod diagnostic;
pub mod evaluate;
pub mod event;
pub mod experiment;
pub mod files;
pub mod metric;
pub mod models;
pub mod money;
pub mod price;
pub mod prompt;
pub mod provider;
pub mod report;
pub mod runner;
pub mod search;
pub mod serve;
pub mod space;
pub mod stats;
pub mod store;
pub mod study;
pub mod task;

pub use diagnostic::{Error, Result};
pub use evaluate::{TaskBuilder, Workload};
pub use money::Usd;
pub use provider::Sample;
