//! Models of a hub: what is downloaded, what is not, and what is said when it cannot be. The hub and the server that it sends
//! on to for large files are on loopback.
#![cfg(all(unix, feature = "local"))]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{Done, Home};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_NobodyMaySeeThis";

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

/// What is answered: status, headers, the body, and how much of it is sent before the connection ends.
struct Reply(u16, Vec<(&'static str, String)>, Vec<u8>, Option<usize>);

type Answer = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// A server on loopback that notes what it is asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answer: Answer) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (notes, answer) = (notes.clone(), answer.clone());
                // Who hangs up is no concern of the server's.
                std::thread::spawn(move || stream.and_then(|stream| serve(stream, &notes, &*answer)));
            }
        });
        Server { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Paths that were asked for by GET, without what follows `?`.
    fn paths(&self) -> Vec<String> {
        let path = |asked: Asked| asked.path.split('?').next().unwrap().to_owned();
        self.asked().into_iter().filter(|asked| asked.method == "GET").map(path).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    notes: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let asked = Asked { method, path, headers };
    notes.lock().unwrap().push(asked.clone());
    let Reply(status, headers, body, cut) = answer(&asked);
    let mut head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method != "HEAD" {
        stream.write_all(&body[..cut.unwrap_or(body.len())])?;
    }
    stream.flush()
}

/// Files of a repository.
type Files = BTreeMap<String, Vec<u8>>;

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/local").join(path)).unwrap()
}

/// A tiny model with what else repositories hold.
fn tiny() -> Files {
    let mut files = Files::new();
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        files.insert(name.to_owned(), fixture(&format!("llama/{name}")));
    }
    // Its context of 128 characters is short for problems in words.
    let config = String::from_utf8(files["config.json"].clone()).unwrap();
    assert!(config.contains("\"max_position_embeddings\": 128"));
    let config = config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 1024");
    files.insert("config.json".to_owned(), config.into_bytes());
    files.insert("tokenizer.json".to_owned(), fixture("tokenizer.json"));
    for name in ["README.md", "pytorch_model.bin", "onnx/model.onnx", "original/model.safetensors"] {
        files.insert(name.to_owned(), b"not for us".to_vec());
    }
    files
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// Stands for git's hash of a file.
fn blob(bytes: &[u8]) -> String {
    sha256(bytes)[..40].to_owned()
}

fn large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// A file, or what of it was asked for.
fn ranged(asked: &Asked, bytes: &[u8]) -> Reply {
    let from =
        asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        None => Reply(200, vec![], bytes.to_vec(), None),
        Some(from) if from < bytes.len() => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply(206, vec![("content-range", range)], bytes[from..].to_vec(), None)
        }
        Some(_) => Reply(416, vec![], vec![], None),
    }
}

/// The listing of a repository; without sizes and hashes where it is one of a simple mirror.
fn listing(files: &Files, simple: bool) -> Reply {
    let file = |(name, bytes): (&String, &Vec<u8>)| match (simple, large(name)) {
        (true, _) => json!({"rfilename": name}),
        (false, true) => {
            let size = if bytes == b"petabyte" { 1_000_000_000_000_000 } else { bytes.len() };
            let lfs = json!({"sha256": sha256(bytes), "size": size, "pointerSize": 134});
            json!({"rfilename": name, "size": size, "blobId": blob(b"pointer"), "lfs": lfs})
        }
        (false, false) => json!({"rfilename": name, "size": bytes.len(), "blobId": blob(bytes)}),
    };
    let siblings: Vec<Value> = files.iter().map(file).collect();
    Reply(200, vec![], json!({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).to_string().into_bytes(), None)
}

/// A hub with one repository, which sends on to another server for large files and to itself for small ones.
fn hub(files: &Files, storage: &Server, simple: bool) -> Server {
    let (files, storage) = (files.clone(), storage.url.clone());
    Server::start(Arc::new(move |asked| {
        let path = asked.path.split('?').next().unwrap_or_default();
        if ["main", "v1", COMMIT].iter().any(|name| path == format!("/api/models/org/tiny/revision/{name}")) {
            return listing(&files, simple);
        }
        let (cached, name) = match path.strip_prefix("/cached/") {
            Some(name) => (true, name),
            None => (false, path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")).unwrap_or_default()),
        };
        let Some(bytes) = files.get(name) else { return Reply(404, vec![], vec![], None) };
        let commit = ("x-repo-commit", COMMIT.to_owned());
        match (large(name), cached) {
            (true, _) => {
                let to = format!("{storage}/{name}?signature=alsosecret");
                let about =
                    [("x-linked-etag", format!("\"{}\"", sha256(bytes))), ("x-linked-size", bytes.len().to_string())];
                Reply(302, [commit, ("location", to)].into_iter().chain(about).collect(), vec![], None)
            }
            (false, false) => Reply(307, vec![commit, ("location", format!("/cached/{name}"))], vec![], None),
            (false, true) => {
                let Reply(status, mut headers, body, cut) = ranged(asked, bytes);
                headers.extend([commit, ("etag", format!("\"{}\"", blob(bytes)))]);
                Reply(status, headers, body, cut)
            }
        }
    }))
}

/// Where large files lie.
fn storage(files: &Files) -> Server {
    let files = files.clone();
    Server::start(Arc::new(move |asked| {
        let name = asked.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        files.get(name).map_or(Reply(404, vec![], vec![], None), |bytes| ranged(asked, bytes))
    }))
}

fn home(model: &str) -> Home {
    let home = Home::new(3);
    home.write("farthing.toml", format!("[models.\"{model}\"]\nprice = {{ input = 1, output = 2 }}\n"));
    home.write(
        "task/space.toml",
        format!(
            "[space]\nname = \"sums\"\n[params.prompt]\ntype = \"categorical\"\nchoices = [{{ name = \"plain\", template = \"{{{{ problem }}}}\" }}]\n[params.model]\nvalue = \"{model}\"\n[params.max_tokens]\nvalue = 4\n"
        ),
    );
    home
}

/// The program, with a hub.
fn command(home: &Home, hub: &Server, line: &str) -> Command {
    let mut command = home.command(&line.split_whitespace().collect::<Vec<_>>());
    for name in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", &hub.url).env("HF_HOME", home.path("hf")).env("HF_TOKEN", TOKEN);
    command.env("XDG_CACHE_HOME", home.path("xdg"));
    command
}

const EVALUATE: &str = "evaluate task --budget 0.05 --json --quiet";

fn evaluated(home: &Home, hub: &Server) -> Done {
    support::done(&mut command(home, hub, EVALUATE))
}

fn cached(home: &Home, path: &str) -> PathBuf {
    home.path("hf/hub/models--org--tiny").join(path)
}

#[test]
fn a_model_is_downloaded_once_as_the_hubs_own_tools_keep_it_and_the_token_goes_to_the_hub_alone() {
    let files = tiny();
    let storage = storage(&files);
    let hub = hub(&files, &storage, false);
    let home = home("hf:org/tiny");
    // Looking at it, or at others, downloads nothing.
    support::done(&mut command(&home, &hub, "models hf:org")).ended(0);
    let doctor = support::done(&mut command(&home, &hub, "doctor task --offline"));
    assert!(doctor.stdout.contains("the model `org/tiny` (main) is not in Hugging Face's cache"), "{doctor:?}");
    let estimate = support::done(&mut command(&home, &hub, "estimate task")).ended(2);
    assert!(estimate.stderr.contains("a command that asks it downloads it"), "{estimate:?}");
    let offline = support::done(command(&home, &hub, EVALUATE).env("HF_HUB_OFFLINE", "1")).ended(2);
    assert!(offline.stderr.contains("HF_HUB_OFFLINE is set") && hub.asked().is_empty(), "{offline:?}");
    let loud = support::done(&mut command(&home, &hub, &format!("--log trace {EVALUATE}"))).ended(0);
    let said = format!("downloading `org/tiny` (main) from {}: 3 files, ", hub.url);
    assert!(loud.stderr.contains(&said), "{loud:?}");
    assert!(loud.stderr.contains(&home.path("hf/hub/models--org--tiny").display().to_string()), "{loud:?}");
    for secret in [TOKEN, "alsosecret"] {
        assert!(!loud.stderr.contains(secret) && !loud.stdout.contains(secret));
    }
    for asked in hub.asked() {
        assert_eq!(asked.headers.get("authorization"), Some(&format!("Bearer {TOKEN}")), "{asked:?}");
    }
    assert_eq!(storage.paths(), ["/model.safetensors"]);
    assert!(storage.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
    let unwanted = ["README", ".bin", "onnx", "original"];
    assert!(hub.paths().iter().all(|path| unwanted.iter().all(|word| !path.contains(word))), "{:?}", hub.paths());
    // The same links, names and references.
    assert_eq!(home.read("hf/hub/models--org--tiny/refs/main"), COMMIT);
    assert_eq!(std::fs::read_dir(cached(&home, "refs")).unwrap().count(), 1);
    let mut kept = BTreeMap::new();
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        let hash = if large(name) { sha256(&files[name]) } else { blob(&files[name]) };
        let link = std::fs::read_link(cached(&home, "snapshots").join(COMMIT).join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(&hash), "{name}");
        kept.insert(hash, files[name].clone());
    }
    for blob in std::fs::read_dir(cached(&home, "blobs")).unwrap() {
        let path = blob.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(kept.remove(name), Some(std::fs::read(&path).unwrap()), "{name}");
    }
    assert!(kept.is_empty());
    // From now on nothing is asked, whether or not it may be, and what only looks finds it.
    let before = hub.asked().len();
    let again = evaluated(&home, &hub).ended(0);
    assert!(!again.stderr.contains("downloading"), "{again:?}");
    support::done(command(&home, &hub, EVALUATE).env("HF_HUB_OFFLINE", "1")).ended(0);
    support::done(&mut command(&home, &hub, "estimate task")).ended(0);
    assert_eq!(hub.asked().len(), before);
    // A file that was lost is fetched alone.
    std::fs::remove_file(cached(&home, "blobs").join(blob(&files["tokenizer.json"]))).unwrap();
    evaluated(&home, &hub).ended(0);
    let after: Vec<String> = hub.paths().split_off(before);
    assert_eq!(after.last().unwrap(), "/cached/tokenizer.json", "{after:?}");
    assert_eq!((after.len(), storage.asked().len()), (3, 1));
}

#[test]
fn what_was_cut_is_not_taken_for_whole_and_goes_on_where_it_was() {
    let files = tiny();
    let weights = files["model.safetensors"].clone();
    let half = weights.len() / 2;
    // The first answer ends in the middle; then nothing more comes for a while.
    let (served, count) = (weights.clone(), Mutex::new(0));
    let broken = Server::start(Arc::new(move |asked| {
        let mut count = count.lock().unwrap();
        *count += 1;
        let Reply(status, headers, body, _) = ranged(asked, &served);
        if *count == 1 { Reply(status, headers, body, Some(half)) } else { Reply(503, vec![], vec![], None) }
    }));
    let home = home("hf:org/tiny");
    let done = evaluated(&home, &hub(&files, &broken, false)).ended(5);
    assert!(done.stderr.contains("answers 503") && done.stderr.contains("goes on"), "{done:?}");
    let part = cached(&home, "blobs").join(format!("{}.incomplete", sha256(&weights)));
    assert_eq!(std::fs::read(&part).unwrap(), weights[..half]);
    assert!(!cached(&home, "snapshots").join(COMMIT).join("model.safetensors").exists());
    assert!(!cached(&home, "refs/main").exists());
    let storage = storage(&files);
    evaluated(&home, &hub(&files, &storage, false)).ended(0);
    assert_eq!(storage.asked()[0].headers["range"], format!("bytes={half}-"));
    assert_eq!(std::fs::read(cached(&home, "blobs").join(sha256(&weights))).unwrap(), weights);
    assert!(!part.exists());
    // A server that knows no ranges sends all of it again; and what is there but wrong is found by its hash.
    let served = weights.clone();
    let plain = Server::start(Arc::new(move |_| Reply(200, vec![], served.clone(), None)));
    for (begun, server, requests) in [(weights[..half].to_vec(), &plain, 1), (vec![7; half], &storage, 2)] {
        let before = server.asked().len();
        std::fs::rename(cached(&home, "blobs").join(sha256(&weights)), home.path("away")).unwrap();
        std::fs::write(&part, begun).unwrap();
        evaluated(&home, &hub(&files, server, false)).ended(0);
        assert_eq!(std::fs::read(cached(&home, "blobs").join(sha256(&weights))).unwrap(), weights);
        assert_eq!(server.asked().len() - before, requests);
    }
    // A file that is never what it should be is never there.
    std::fs::remove_file(cached(&home, "blobs").join(sha256(&weights))).unwrap();
    let mut other = weights.clone();
    *other.last_mut().unwrap() ^= 1;
    let liar = Server::start(Arc::new(move |_| Reply(200, vec![], other.clone(), None)));
    let done = evaluated(&home, &hub(&files, &liar, false)).ended(5);
    assert!(done.stderr.contains("is not model.safetensors, by its SHA-256"), "{done:?}");
    assert!(!cached(&home, "blobs").join(sha256(&weights)).exists());
}

#[test]
fn shards_simple_mirrors_gguf_files_and_several_at_once() {
    // Weights in a file of another name, which an index names, at a hub that lists names alone; by a tag.
    let mut files = tiny();
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("model-00001-of-00001.safetensors".to_owned(), weights.clone());
    let index = json!({"weight_map": {"any": "model-00001-of-00001.safetensors"}}).to_string();
    files.insert("model.safetensors.index.json".to_owned(), index.into_bytes());
    let large = storage(&files);
    let mirror = hub(&files, &large, true);
    let tagged = home("hf:org/tiny@v1");
    let tune = "tune task --budget 0.002 --out run --quiet";
    // A token in the file that `hf auth login` writes.
    tagged.write("hf/token", format!("{TOKEN}\n"));
    let done = support::done(command(&tagged, &mirror, tune).env_remove("HF_TOKEN")).ended(0);
    let brought = |asked: &Asked| asked.headers.get("authorization") == Some(&format!("Bearer {TOKEN}"));
    assert!(mirror.asked().iter().all(brought) && !large.asked().iter().any(brought));
    assert!(done.stderr.contains("INFO downloading `org/tiny` (v1) from"), "{done:?}");
    assert_eq!(tagged.read("hf/hub/models--org--tiny/refs/v1"), COMMIT);
    assert!(cached(&tagged, "blobs").join(sha256(&weights)).is_file());
    let count = mirror.asked().len();
    // The study that downloaded it is the same one that finds it.
    support::done(&mut command(&tagged, &mirror, "tune --resume run --quiet")).ended(0);
    evaluated(&tagged, &mirror).ended(0);
    assert_eq!(mirror.asked().len(), count);
    // A GGUF file, and nothing else; from there it is served, too.
    let gguf = fixture("gguf/f32.gguf");
    let files = Files::from([("tiny-f32.gguf".to_owned(), gguf.clone()), ("tiny-q8.gguf".to_owned(), vec![0; 9])]);
    let large = storage(&files);
    let hosting = hub(&files, &large, false);
    let one = home("hf:org/tiny/tiny-f32.gguf");
    let mut child = command(&one, &hosting, "mock --port 0 --model tiny=hf:org/tiny/tiny-f32.gguf")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = [0; 7];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((&line, large.paths()), (b"Serving", vec!["/tiny-f32.gguf".to_owned()]));
    // Two processes at once fetch each file once.
    let files = tiny();
    let large = storage(&files);
    let hosting = hub(&files, &large, false);
    let one = home("hf:org/tiny");
    let start = |store: &str| command(&one, &hosting, &format!("{EVALUATE} --store {store}")).spawn().unwrap();
    let children = [start("a.db"), start("b.db")];
    for child in children {
        support::finished(child).ended(0);
    }
    assert_eq!(large.asked().len(), 1);
    assert_eq!(hosting.paths().iter().filter(|path| path.starts_with("/cached/tokenizer")).count(), 1);
}

#[test]
fn what_the_hub_does_not_give_is_said_with_what_to_do() {
    let refusing = |status: u16, code: &'static str| {
        let echo = format!("no access with {TOKEN}");
        let headers = vec![("x-error-code", code.to_owned()), ("x-error-message", echo)];
        Server::start(Arc::new(move |_| Reply(status, headers.clone(), TOKEN.into(), None)))
    };
    let with = |files: Files| hub(&files, &storage(&files), false);
    let replaced = |name: &str, bytes: &[u8]| {
        let mut files = tiny();
        files.insert(name.to_owned(), bytes.to_vec());
        with(files)
    };
    let without = |names: &[&str]| {
        let mut files = tiny();
        files.retain(|name, _| !names.contains(&name.as_str()));
        with(files)
    };
    let gguf = [("a.gguf", ""), ("b.gguf", ""), ("README.md", "")].map(|(name, _)| (name.to_owned(), vec![0; 9]));
    let huge = r#"{"model_type": "llama", "hidden_size": 65536, "num_attention_heads": 512, "num_hidden_layers": 900,
        "intermediate_size": 262144, "vocab_size": 320000, "max_position_embeddings": 4096}"#;
    let closed = Server { url: "http://127.0.0.1:1".to_owned(), asked: Arc::default() };
    let (tiny_model, tagged) = ("hf:org/tiny", "hf:org/tiny@v9");
    let cases: Vec<(&str, Server, &str, bool, i32)> = vec![
        ("no such model", refusing(401, "RepoNotFound"), tiny_model, false, 5),
        ("no such model, for this account", refusing(404, "RepoNotFound"), tiny_model, true, 5),
        ("no such model at a mirror", refusing(404, ""), tagged, false, 5),
        ("no such revision", refusing(404, "RevisionNotFound"), tagged, true, 5),
        ("gated, without a token", refusing(401, "GatedRepo"), tiny_model, false, 5),
        ("gated, with a token", refusing(403, "GatedRepo"), tiny_model, true, 5),
        ("a bad token", refusing(401, ""), tiny_model, true, 5),
        ("nobody there", closed, tiny_model, true, 5),
        ("no hub", Server::start(Arc::new(|_| Reply(200, vec![], b"<html>".to_vec(), None))), tiny_model, true, 5),
        ("only GGUF", with(Files::from(gguf.clone())), tiny_model, true, 2),
        ("another GGUF file", with(Files::from(gguf)), "hf:org/tiny/c.gguf", true, 2),
        ("no safetensors", without(&["model.safetensors", "original/model.safetensors"]), tiny_model, true, 2),
        ("no tokenizer.json", without(&["tokenizer.json"]), tiny_model, true, 2),
        ("unknown architecture", replaced("config.json", b"{\"model_type\": \"bert\"}"), tiny_model, true, 2),
        ("too large", replaced("config.json", huge.as_bytes()), tiny_model, true, 2),
        ("no room", replaced("model.safetensors", b"petabyte"), tiny_model, true, 2),
    ];
    let mut all = String::new();
    for (what, hub, model, token, code) in &cases {
        let home = home(model);
        let mut command = command(&home, hub, EVALUATE);
        if !token {
            command.env_remove("HF_TOKEN");
        }
        let done = support::done(&mut command).ended(*code);
        assert!(done.stdout.is_empty() && !done.stderr.contains(TOKEN), "{what}: {done:?}");
        assert!(!hub.paths().iter().any(|path| path.contains("safetensors")), "{what}: {:?}", hub.paths());
        assert!(!cached(&home, "refs").exists(), "{what}");
        // How much memory there is decides where its lines end.
        if *what == "too large" {
            assert!(done.stderr.contains("hf:org/tiny does not fit in memory: 61889472 M weights"), "{done:?}");
            continue;
        }
        if *what == "no room" {
            assert!(done.stderr.contains("does not fit on the disk: 1000000.00 GB are to be"), "{done:?}");
            continue;
        }
        all += &format!("## {what}\n{}\n\n", done.stderr.trim_end());
        assert!(done.stderr.contains("help:"), "{what}: {done:?}");
        all = all.replace(&hub.url, "http://hub").replace(home.path("").to_str().unwrap(), "HOME/");
    }
    support::snapshot("hub_refusals", &all);
}
