//! What a request costs us beside the bare HTTP client: `cargo bench --no-default-features --bench runner [-- OPTIONS]`.
//!
//! A loopback endpoint in another process answers every chat request with the same reply of about 0.8 kB. Measured, one
//! after the other and in turns: a bare reqwest loop that parses the replies, `Client::create_many` and `evaluate`'s
//! pipeline over a fresh SQLite store (every response durable before it is used) and over memory. Then the same endpoint
//! with 50 ms latency: how much of what 64 requests in flight could do at best is reached; and the peak memory of a run of
//! many requests (of `evaluate` it holds the data too, 20,000 rows at most, and every result).
//!
//! CPU is that of this process alone, in seconds per 1,000 requests; medians over the rounds. Options: `--requests N`
//! (20000), `--rounds N` (3), `--concurrency N` (64), `--memory N` (200000 requests; 0: not measured), `--only WORD`
//! (measure only what has the word in its name), `--folder F` (where the stores are made; the system's temporary folder).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farthing::backend::Endpoints;
use farthing::client::{Client, Create};
use farthing::evaluate::Plan;
use farthing::runner::{Purse, Runner};
use farthing::store::{MemoryStore, SharedStore, SqliteStore};
use farthing::study::fixed::FixedAgenda;
use farthing::study::pipeline::Pipeline;
use farthing::{Usd, Workload, space};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MODEL: &str = "gpt-4o-mini";

/// Rows of the task at most: more evaluations are of more configurations.
const INSTANCES: usize = 20_000;

fn main() {
    // Under `cargo test` it is only built.
    let arguments: Vec<String> = std::env::args().collect();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let after = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1).cloned();
    let number = |name: &str, default: usize| {
        after(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
    };
    if let Some(latency) = after("--serve") {
        return serve(Duration::from_millis(latency.parse().expect("milliseconds")));
    }
    let folder = after("--folder").map_or_else(std::env::temp_dir, Into::into);
    let concurrency = number("--concurrency", 64);
    if let Some(address) = after("--one") {
        let (what, requests) = (after("--only").expect("what"), number("--requests", 1));
        let run = Run { what: &what, requests, concurrency, address: &address, folder: &folder };
        let took = run.measure();
        println!("{} {} {}", took.seconds, peak_memory(), took.cpu);
        return;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let (requests, rounds, memory) = (number("--requests", 20_000), number("--rounds", 3), number("--memory", 200_000));
    let only = after("--only").unwrap_or_default();
    let kinds = ["bare", "client, SQLite", "client, memory", "evaluate, SQLite", "evaluate, memory"];
    let kinds = kinds.iter().filter(|kind| **kind == "bare" || kind.contains(&only));

    println!("{requests} requests at once {concurrency}, no latency, {rounds} rounds");
    println!("{:<20} {:>14} {:>10} {:>8}", "", "CPU s / 1,000", "per s", "ratio");
    let endpoint = Serving::start(0);
    let mut measured: HashMap<&str, Vec<Measured>> = HashMap::new();
    for _ in 0..rounds {
        for what in kinds.clone() {
            let run = Run { what, requests, concurrency, address: &endpoint.address, folder: &folder };
            measured.entry(*what).or_default().push(run.measure());
        }
    }
    let bare = median(measured["bare"].iter().map(|one| one.cpu));
    for what in kinds.clone() {
        let cpu = median(measured[what].iter().map(|one| one.cpu));
        let rate = median(measured[what].iter().map(|one| requests as f64 / one.seconds));
        println!("{what:<20} {:>14.4} {rate:>10.0} {:>8.2}", cpu * 1000.0 / requests as f64, cpu / bare);
    }
    drop(endpoint);

    let endpoint = Serving::start(50);
    let best = concurrency as f64 / 0.05;
    println!("\n50 ms latency: of {best:.0} requests a second at best");
    for what in kinds.clone() {
        // Long enough that connecting and slow start do not count.
        let requests = requests.max((best * 8.0) as usize);
        let one = Run { what, requests, concurrency, address: &endpoint.address, folder: &folder }.measure();
        println!("{what:<20} {:>9.1} %", requests as f64 / one.seconds / best * 100.0);
    }
    drop(endpoint);

    if memory > 0 {
        let endpoint = Serving::start(0);
        println!("\npeak memory of a process that sends so many requests");
        for what in kinds.clone().filter(|kind| kind.contains("SQLite")) {
            for requests in [memory / 10, memory] {
                let program = std::env::current_exe().expect("this program");
                let (count, width) = (requests.to_string(), concurrency.to_string());
                let output = Command::new(program)
                    .args(["--one", &endpoint.address, "--only", what, "--requests", &count, "--concurrency", &width])
                    .args(["--folder".as_ref(), folder.as_os_str()])
                    .output()
                    .expect("a run of this program");
                let text = String::from_utf8_lossy(&output.stdout);
                let peak: f64 = text.split_whitespace().nth(1).and_then(|peak| peak.parse().ok()).expect("a number");
                println!("{what:<20} {requests:>9} requests: {:>7.1} MB", peak / 1e6);
            }
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Measured {
    seconds: f64,
    cpu: f64,
}

struct Run<'a> {
    what: &'a str,
    requests: usize,
    concurrency: usize,
    address: &'a str,
    folder: &'a Path,
}

impl Run<'_> {
    fn measure(&self) -> Measured {
        let folder = tempfile::tempdir_in(self.folder).expect("a folder");
        let path = folder.path();
        std::fs::write(path.join("farthing.toml"), self.endpoints()).expect("a file");
        let endpoints = Endpoints::load(&path.join("farthing.toml")).expect("endpoints");
        let store: SharedStore = match self.what.contains("SQLite") {
            true => SqliteStore::open(path.join("store.db")).expect("a store"),
            false => MemoryStore::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        match self.what.split(',').next() {
            Some("client") => {
                let (began, cpu) = (Instant::now(), cpu_seconds());
                runtime.block_on(self.client(endpoints, store));
                measured(began, cpu)
            }
            Some("evaluate") => {
                write_task(path, self.requests.min(INSTANCES));
                runtime.block_on(self.evaluate(path, &endpoints, store))
            }
            _ => {
                let (began, cpu) = (Instant::now(), cpu_seconds());
                runtime.block_on(self.bare());
                measured(began, cpu)
            }
        }
    }

    fn endpoints(&self) -> String {
        format!(
            "[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\n\
             [models.\"{MODEL}\"]\nendpoint = \"here\"\nprice = {{ input = 0.15, output = 0.60 }}\n",
            self.address
        )
    }

    async fn bare(&self) {
        #[derive(Deserialize)]
        struct Reply {
            choices: Vec<Choice>,
            usage: Usage,
        }
        #[derive(Deserialize)]
        struct Choice {
            message: Message,
            finish_reason: String,
        }
        #[derive(Deserialize)]
        struct Message {
            content: String,
        }
        #[derive(Deserialize)]
        struct Usage {
            prompt_tokens: u64,
            completion_tokens: u64,
        }
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(512).build().expect("a client");
        let (url, next) = (format!("{}/chat/completions", self.address), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..self.concurrency).map(|_| {
            let (client, url, next, requests) = (client.clone(), url.clone(), next.clone(), self.requests);
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return;
                    }
                    let body = serde_json::json!({
                        "model": MODEL, "temperature": 0.0, "max_tokens": 64,
                        "messages": [{"role": "user", "content": prompt(number)}],
                    });
                    let body = serde_json::to_vec(&body).expect("JSON");
                    let sent = client.post(&url).header("content-type", "application/json").body(body).send().await;
                    let bytes = sent.expect("a reply").bytes().await.expect("its body");
                    let reply: Reply = serde_json::from_slice(&bytes).expect("a chat completion");
                    let choice = &reply.choices[0];
                    assert!(!choice.message.content.is_empty() && choice.finish_reason == "stop");
                    assert!(reply.usage.prompt_tokens + reply.usage.completion_tokens > 0);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("a task");
        }
    }

    async fn client(&self, endpoints: Endpoints, store: SharedStore) {
        let client = Client::builder().endpoints(endpoints).shared_store(store).concurrency(self.concurrency);
        let client = client.budget("1000000".parse().expect("dollars")).build().expect("a client");
        let ask = |number| Create::chat(MODEL).user(prompt(number)).temperature(0.0).max_tokens(64);
        let mut answers = std::pin::pin!(client.create_many((0..self.requests).map(ask)));
        while let Some(answer) = answers.next().await {
            assert!(!answer.expect("an answer").samples.is_empty());
        }
    }

    /// What `farthing evaluate` does.
    async fn evaluate(&self, folder: &Path, endpoints: &Endpoints, store: SharedStore) -> Measured {
        let workload = Workload::load(folder).expect("a task");
        let space = space::load(&folder.join("space.toml")).expect("a space");
        let budget = "1000000".parse().expect("dollars");
        let runner =
            Runner::open(store, endpoints, &[MODEL.to_owned()], self.concurrency, true, true).expect("a runner");
        let mut configuration = space.baseline.clone().expect("a baseline");
        let plan = |seed: usize| {
            configuration.0.insert("seed".to_owned(), seed.into());
            Arc::new(Plan::new(&space, &configuration, &runner).expect("a plan"))
        };
        let plans: Vec<Arc<Plan>> = (1..=self.requests.div_ceil(INSTANCES)).map(plan).collect();
        let instances = workload.task.tune.clone();
        let purse = Purse::new(Some(budget), false, Usd::ZERO);
        let pipeline = Pipeline::fixed(&workload, &instances, runner, purse, &"bench".into(), &Arc::default());
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let mut agenda = FixedAgenda::new(plans, (0..instances.len()).collect(), &pipeline, Vec::new());
        pipeline.run(&mut agenda).await.expect("an evaluation");
        let measured = measured(began, cpu);
        assert_eq!(agenda.cache_hits(), 0);
        let all = || agenda.trials.iter().flat_map(|trial| &trial.evaluations);
        assert!(all().count() >= self.requests && all().all(|one| one.result.is_ok()));
        measured
    }
}

fn measured(began: Instant, cpu: f64) -> Measured {
    Measured { seconds: began.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu }
}

fn prompt(number: usize) -> String {
    format!("Question {number}: which of the following four statements is true, and why? Answer in one short sentence.")
}

fn write_task(folder: &Path, instances: usize) {
    let mut rows = String::new();
    for number in 0..instances {
        writeln!(rows, "{}", serde_json::json!({"question": prompt(number), "answer": "the second"})).expect("a text");
    }
    let task = "[task]\nname = \"bench\"\n[data]\ntune = \"tune.jsonl\"\ntest = \"test.jsonl\"\n\
                [objective]\nmetric = \"accuracy\"\n\
                [metrics.accuracy]\ntype = \"exact_match\"\nexpected = \"{{ answer }}\"\nnormalize = [\"trim\", \"lowercase\"]\n";
    let space = "[space]\nname = \"bench\"\n\
                 [params.prompt]\ntype = \"categorical\"\nchoices = [{ name = \"plain\", template = \"{{ question }}\" }]\n\
                 [params.model]\nvalue = \"gpt-4o-mini\"\n[params.temperature]\nvalue = 0.0\n[params.max_tokens]\nvalue = 64\n\
                 [params.seed]\ntype = \"int\"\nlow = 1\nhigh = 1000\n[params.n]\nvalue = 1\n\
                 [baseline]\nprompt = \"plain\"\nseed = 1\n";
    let test = "{\"question\": \"?\", \"answer\": \"!\"}\n";
    for (name, text) in
        [("tune.jsonl", rows.as_str()), ("test.jsonl", test), ("task.toml", task), ("space.toml", space)]
    {
        std::fs::write(folder.join(name), text).expect("a file");
    }
}

/// The endpoint, in a process of its own that ends with this one.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(latency: u64) -> Serving {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--serve", &latency.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an endpoint");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("its port");
        Serving { child, address: format!("http://127.0.0.1:{}/v1", line.trim()) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Answers every request with the same reply, after the latency; ends when its input does. One thread.
fn serve(latency: Duration) {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let content = "The second statement is true. ".repeat(15);
    let body = serde_json::json!({
        "id": "chatcmpl-bench", "object": "chat.completion", "created": 1_763_000_000, "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content, "refusal": null}, "logprobs": null,
                     "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 31, "completion_tokens": 64, "total_tokens": 95,
                  "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}},
    })
    .to_string();
    let reply: Arc<[u8]> =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
            .into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address").port());
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            let reply = reply.clone();
            tokio::spawn(async move {
                let (mut got, mut chunk) = (Vec::new(), vec![0; 16_384]);
                loop {
                    while let Some(length) = whole(&got) {
                        got.drain(..length);
                        if latency > Duration::ZERO {
                            tokio::time::sleep(latency).await;
                        }
                        if stream.write_all(&reply).await.is_err() {
                            return;
                        }
                    }
                    match stream.read(&mut chunk).await {
                        Ok(0) | Err(_) => return,
                        Ok(read) => got.extend_from_slice(&chunk[..read]),
                    }
                }
            });
        }
    });
}

/// The length of the first request, once all of it is there.
fn whole(got: &[u8]) -> Option<usize> {
    let end = got.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&got[..end]).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>().ok()?;
    (got.len() >= end + length).then_some(end + length)
}

/// Seconds of processor time that this process has used, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name in parentheses may hold blanks; user and system time are the 14th and 15th field, in ticks of 1/100 s.
    let fields: Vec<&str> = text.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// The most bytes that this process ever had in memory.
fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}
