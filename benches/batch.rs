//! A large batch job that is killed on the way: `cargo bench --no-default-features --bench batch [-- OPTIONS]`.
//!
//! The program is given a file of requests (120,000) and a mock endpoint in this process, cut into batches of at most
//! 50,000 as the provider wants it. It is killed with SIGKILL three times: while it submits, while batches are out, while it
//! takes results in. Then it runs to its end, and once more. Checked: every request has its answer once, the endpoint
//! worked on each line once, its ledger is ours to the picodollar, nothing is left at the endpoint, and the last run
//! sends nothing. Measured: wall and CPU time of the program, and its peak memory, over all its lives.
//!
//! Options: `--requests N`, `--seconds N` (how long a batch takes, 4), `--folder F` (where the store is made), `--program P`
//! (another build of the program).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farthing::Usd;
use farthing::serve::mock::{BatchOptions, MockServer, Options};
use farthing::store::{BatchBook as _, SqliteStore, Store};
use serde_json::{Value, json};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // Under `cargo test` it is only built.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let after = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1).cloned();
    let number = |name: &str, default: u64| after(name).map_or(default, |text| text.parse().expect("a number"));
    let (requests, seconds) = (number("--requests", 120_000), number("--seconds", 4));
    let parent = after("--folder").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::Builder::new().prefix("farthing-batch").tempdir_in(parent).expect("a folder");
    let batches = BatchOptions { duration: Duration::from_secs(seconds), ..BatchOptions::default() };
    let server = MockServer::start(Options { batches, threads: 2, ..Options::default() }).expect("an endpoint");
    write_files(folder.path(), &server, requests);

    let program = after("--program").unwrap_or_else(|| env!("CARGO_BIN_EXE_farthing").to_owned());
    let mut lives = Lives { program, ..Lives::default() };
    // Enough of the work is done by then that it dies in the middle of something else each time.
    lives.life(folder.path(), Some(&mut || files(&server) >= 2));
    println!("killed while it submitted: {} files at the endpoint", files(&server));
    lives.life(folder.path(), Some(&mut || server.ledger().batch_lines > requests / 3));
    println!("killed while batches were out: {} of {requests} lines worked on", server.ledger().batch_lines);
    let landed = || SqliteStore::open(folder.path().join("store.db")).and_then(|store| store.batches(false));
    let answered = || landed().map_or(0, |batches| batches.iter().map(|batch| batch.lines[1]).sum::<u64>());
    let before = answered();
    lives.life(folder.path(), Some(&mut || answered() > before + requests / 10));
    println!("killed while it took results in: {} answers in the store", answered());
    let status = lives.life(folder.path(), None).expect("it ends");
    let again = Instant::now();
    let second = lives.life(folder.path(), None).expect("it ends");
    let again = again.elapsed();

    let ledger = server.ledger();
    let money = |status: &Value, name: &str| -> Usd { status[name].as_str().expect(name).parse().expect("dollars") };
    assert_eq!((ledger.batch_lines, ledger.batches.bills), (requests, requests), "a line was sent twice, or never");
    assert_eq!(status["answered"], requests);
    assert_eq!((money(&status, "spent_usd"), money(&status, "held_usd")), (ledger.billed, Usd::ZERO));
    assert_eq!(money(&second, "spent_usd"), ledger.billed);
    assert_eq!(files(&server), 0, "files are left at the endpoint");
    let store = SqliteStore::open(folder.path().join("store.db")).expect("the store");
    let samples: u64 = store.contents().expect("contents").groups.values().map(|sums| sums.samples).sum();
    assert_eq!(samples, requests, "an answer is there twice, or missing");
    let answers = std::fs::read_to_string(folder.path().join("answers.jsonl")).expect("the answers");
    let ids = answers.lines().enumerate().filter(|(at, line)| line.contains(&format!("\"id\":\"r{at}\"")));
    assert_eq!(ids.count() as u64, requests, "answers in the order of asking");
    println!(
        "{requests} requests in {} batches, killed three times: every answer once; endpoint billed ${}, ours ${}",
        status["batches"].as_array().map_or(0, Vec::len),
        ledger.billed,
        status["spent_usd"].as_str().unwrap_or_default()
    );
    println!(
        "wall {:.1} s, CPU {:.1} s ({:.3} s per 1,000 requests), peak memory {} MiB; asked again: {:.1} s, nothing sent",
        lives.wall.as_secs_f64() - again.as_secs_f64(),
        lives.cpu,
        lives.cpu * 1000.0 / requests as f64,
        lives.peak_kib / 1024,
        again.as_secs_f64()
    );
}

fn write_files(folder: &Path, server: &MockServer, requests: u64) {
    let file = std::fs::File::create(folder.join("requests.jsonl")).expect("a file");
    let mut file = std::io::BufWriter::new(file);
    for at in 0..requests {
        let text = format!("Ann has {at} apples, buys 3 bags of 7 and gives 5 away. How many apples has she now?");
        let line = json!({"id": format!("r{at}"), "model": "mock-small", "max_tokens": 48, "temperature": 0.7,
            "messages": [{"role": "system", "content": "Answer with the number only."}, {"role": "user", "content": text}]});
        writeln!(file, "{line}").expect("room");
    }
    file.flush().expect("room");
    let mut text = format!("[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\n", server.url());
    text += "[models.mock-small]\nendpoint = \"here\"\n";
    // The endpoint's own price of this model.
    writeln!(text, "price = {{ input = 0.25, output = 0.75 }}").expect("a text");
    std::fs::write(folder.join("farthing.toml"), text).expect("a file");
}

fn files(server: &MockServer) -> usize {
    let address = server.address();
    let work = async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET /v1/files?limit=100 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text.matches("\"purpose\"").count())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work).expect("the endpoint answers")
}

/// What the program took, over all its lives.
#[derive(Default)]
struct Lives {
    program: String,
    wall: Duration,
    cpu: f64,
    peak_kib: u64,
}

impl Lives {
    /// Runs the program to its end, or until it is killed; what it printed where it ended by itself.
    fn life(&mut self, folder: &Path, mut kill: Option<&mut dyn FnMut() -> bool>) -> Option<Value> {
        let begin = Instant::now();
        let arguments =
            "batch invoke requests.jsonl --out answers.jsonl --store store.db --poll 0.25 --grace 2 --json -q";
        let mut child = Command::new(&self.program)
            .args(arguments.split(' '))
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut cpu = 0.0;
        let ended = loop {
            self.peak_kib = self.peak_kib.max(peak(&child).unwrap_or(0));
            cpu = seconds(&child).unwrap_or(cpu);
            if child.try_wait().expect("a child").is_some() {
                break true;
            }
            if kill.as_mut().is_some_and(|kill| kill()) {
                child.kill().expect("a child");
                break false;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let output = child.wait_with_output().expect("its output");
        (self.wall, self.cpu) = (self.wall + begin.elapsed(), self.cpu + cpu);
        assert!(!ended || output.status.success(), "{output:?}");
        assert!(!ended || kill.is_none(), "it was over before it could be killed");
        ended.then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }
}

fn peak(child: &Child) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// CPU seconds so far, in the kernel's ticks of 10 ms.
fn seconds(child: &Child) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}
