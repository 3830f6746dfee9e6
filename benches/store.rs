//! How fast the store is on this machine: `cargo bench --bench store [-- FOLDER]`.
//!
//! Prints acknowledged (that is, durable) requests per second from 64 tasks at once, and look-ups per second: warm, from
//! every thread, and while another thread writes. The files are made in FOLDER, by default the system's temporary one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use farthing::Usd;
use farthing::provider::{FinishReason, Response, Sample};
use farthing::store::{Fingerprint, RequestRecord, SqliteStore, Store};

const TASKS: u64 = 64;
const EACH: u64 = 400;
const LOOK_UPS: u64 = 300_000;
const SMALL: u64 = 20_000;

fn main() {
    // Under `cargo test` it is only built.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = folder.map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(folder).expect("a folder for the store");
    let store = SqliteStore::open(folder.path().join("store.db")).expect("a store");
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");

    let began = Instant::now();
    runtime.block_on(requests(&store, TASKS, EACH, false));
    report("records, 64 tasks", TASKS * EACH, began);
    let began = Instant::now();
    runtime.block_on(requests(&store, TASKS, EACH, true));
    report("reserved, then recorded, 64 tasks", TASKS * EACH, began);
    let began = Instant::now();
    runtime.block_on(requests(&store, 1, 200, false));
    report("records, one after another", 200, began);

    for reserve in [false, true, false, true] {
        let apart =
            SqliteStore::open(folder.path().join(format!("apart {reserve} {:?}.db", Instant::now()))).expect("a store");
        let (began, used) = (Instant::now(), cpu_seconds());
        runtime.block_on(small(&apart, reserve));
        let what = if reserve {
            "20,000 of 1 kB reserved and recorded, 64 tasks"
        } else {
            "20,000 of 1 kB recorded, 64 tasks"
        };
        report(what, SMALL, began);
        report_cpu(used, SMALL);
    }

    let began = Instant::now();
    look_ups(&*store, 0, LOOK_UPS);
    report("look-ups, one thread, cold", LOOK_UPS, began);
    let began = Instant::now();
    let used = cpu_seconds();
    look_ups(&*store, 0, LOOK_UPS);
    report("look-ups, one thread, warm", LOOK_UPS, began);
    report_cpu(used, LOOK_UPS);
    let (began, used) = (Instant::now(), cpu_seconds());
    for batch in 0..LOOK_UPS / 512 {
        let prints: Vec<Fingerprint> = (batch * 512..(batch + 1) * 512).map(|k| jumping(0, k)).collect();
        std::hint::black_box(store.stored_many(&prints).expect("look-ups"));
    }
    report("look-ups, one thread, 512 at once", LOOK_UPS, began);
    report_cpu(used, LOOK_UPS);
    let began = Instant::now();
    look_ups(&*store, 1 << 40, LOOK_UPS);
    report("look-ups of what is not there, one thread", LOOK_UPS, began);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for k in 0..threads {
            let store = &store;
            scope.spawn(move || look_ups(&**store, k, LOOK_UPS));
        }
    });
    report(&format!("look-ups, {threads} threads"), LOOK_UPS * threads, began);

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                runtime.block_on(requests(&store, TASKS, 4, false));
            }
        });
        let began = Instant::now();
        look_ups(&*store, 0, LOOK_UPS / 3);
        report("look-ups, one thread, while 64 tasks record", LOOK_UPS / 3, began);
        done.store(true, Ordering::Relaxed);
    });

    let began = Instant::now();
    let spent = store.spent("study").expect("what was spent");
    report("spent, per entry of the ledger", spent.requests, began);
}

fn report_cpu(used: Option<f64>, count: u64) {
    if let Some((before, after)) = used.zip(cpu_seconds()) {
        println!("{:<48} {:>10.4} CPU s per 1,000", "", (after - before) / (count as f64 / 1000.0));
    }
}

fn report(what: &str, count: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{what:<48} {:>10.0} per second", count as f64 / seconds);
}

fn print_of(number: u64) -> Fingerprint {
    Fingerprint(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// Requests of some 1,500 bytes, answered with 5 samples of 200 bytes, each under a fingerprint of its own.
async fn requests(store: &Arc<SqliteStore>, tasks: u64, each: u64, reserve: bool) {
    let request = RequestRecord { model: "gpt-4o-mini".into(), source: "http".into(), body: "x".repeat(1500) };
    let sample = Sample::new("y".repeat(200), FinishReason::STOP, 50);
    let response = Response { samples: vec![sample; 5], prompt_tokens: 400, ..Response::default() };
    let mut running = Vec::new();
    for task in 0..tasks {
        let (store, request, response) = (Arc::clone(store), request.clone(), response.clone());
        running.push(tokio::spawn(async move {
            for k in 0..each {
                // The second round goes to other fingerprints than the first.
                let print = print_of(task * each + k + if reserve { tasks * each } else { 0 });
                let bill = Usd::from_pico(1_000_000);
                let entry = match reserve {
                    true => Some(store.reserve("study", &print, bill).await.expect("a reservation")),
                    false => None,
                };
                store.record("study", &print, &request, response.clone(), bill, entry).await.expect("a record");
            }
        }));
    }
    for task in running {
        task.await.expect("a task");
    }
}

/// Seconds of processor time that this process has used, where the system says so; in steps of 10 ms.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold blanks; user and system time are the 14th and 15th field, in ticks of 1/100 s.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// What one response of 1 kB to a request of 200 bytes costs, at 64 at once.
async fn small(store: &Arc<SqliteStore>, reserve: bool) {
    let mut running = Vec::new();
    for task in 0..TASKS {
        let store = Arc::clone(store);
        running.push(tokio::spawn(async move {
            let request = RequestRecord { model: "m".into(), source: "http".into(), body: "x".repeat(200) };
            for k in (task..SMALL).step_by(TASKS as usize) {
                let sample = Sample::new("y".repeat(1000), FinishReason::STOP, 250);
                let response = Response { samples: vec![sample], prompt_tokens: 50, ..Response::default() };
                let (print, bill) = (print_of(k), Usd::from_pico(1_000_000));
                let entry = match reserve {
                    true => Some(store.reserve("study", &print, bill).await.expect("a reservation")),
                    false => None,
                };
                store.record("study", &print, &request, response, bill, entry).await.expect("a record");
            }
        }));
    }
    for task in running {
        task.await.expect("a task");
    }
}

/// Look-ups over the fingerprints from `first` on, in an order that jumps about.
fn look_ups(store: &dyn Store, first: u64, count: u64) {
    for k in 0..count {
        std::hint::black_box(store.stored(&jumping(first, k)).expect("a look-up"));
    }
}

fn jumping(first: u64, k: u64) -> Fingerprint {
    print_of(first + k.wrapping_mul(2_654_435_761) % (TASKS * EACH))
}
