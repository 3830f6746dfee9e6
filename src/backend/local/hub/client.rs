//! What is asked of the hub over HTTP, and what its refusals mean.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::{HubModel, good, home, set, switched_on};
use crate::backend::http::{loopback, root_cause, unreached};
use crate::diagnostic::{Error, Result, unreadable};

/// The hub, where nothing names another one.
const HUB: &str = "https://huggingface.co";
/// Redirects of one request.
const HOPS: usize = 10;
/// The most that a listing has.
const LISTING: usize = 64 << 20;

/// Where models are downloaded from.
pub struct Hub {
    client: Client,
    base: Url,
    token: Option<Token>,
}

/// What lets a user in, and where it was found.
struct Token {
    origin: String,
    header: HeaderValue,
}

/// Why a request failed: for a while, or for good.
pub enum Trouble {
    /// It may go better the next time.
    Passing(Error),
    /// Nobody was reached.
    Away(Error),
    /// It will not.
    Lasting(Error),
}

impl Trouble {
    /// The error itself.
    pub fn error(self) -> Error {
        match self {
            Trouble::Passing(error) | Trouble::Away(error) | Trouble::Lasting(error) => error,
        }
    }
}

/// What the hub says of a repository.
#[derive(Debug, Deserialize)]
pub struct Listing {
    /// The commit that the revision is.
    pub sha: String,
    /// Its files.
    #[serde(default, rename = "siblings")]
    pub files: Vec<Listed>,
}

/// What it says of a file.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    /// Its path.
    #[serde(rename = "rfilename")]
    pub name: String,
    /// Its bytes.
    pub size: Option<u64>,
    /// Git's hash of it: what the cache calls a small file.
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

#[derive(Clone, Debug, Deserialize)]
struct Large {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listed {
    /// What the cache calls it, and its bytes, as far as the listing says.
    pub fn known(&self) -> (Option<String>, Option<u64>) {
        match &self.lfs {
            Some(large) => (large.sha256.clone(), large.size.or(self.size)),
            None => (self.blob.clone(), self.size),
        }
    }
}

impl Hub {
    /// The hub as the environment has it.
    pub fn open() -> Result<Hub> {
        let base = base(&std::env::var("HF_ENDPOINT").unwrap_or_default())?;
        let mut token = token()?;
        if let Some(Token { origin, .. }) = &token
            && base.scheme() == "http"
            && !loopback(base.as_str())
        {
            tracing::warn!("the token of {origin} is not sent: {} is not reached by TLS", host(&base));
            token = None;
        }
        Hub::at(base, token)
    }

    fn at(base: Url, token: Option<Token>) -> Result<Hub> {
        // An application that embeds farthing may have installed its own TLS provider: then that one serves.
        drop(rustls::crypto::ring::default_provider().install_default());
        let builder = Client::builder()
            .user_agent(concat!("farthing/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(Duration::from_secs(60));
        let builder = if loopback(base.as_str()) { builder.no_proxy() } else { builder };
        let client =
            builder.build().map_err(|error| Error::internal(format!("no HTTP client can be made: {error}")))?;
        Ok(Hub { client, base, token })
    }

    /// Where it is, in words.
    pub fn host(&self) -> String {
        host(&self.base)
    }

    /// The address of a path below the hub's own.
    fn address(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    /// A model's page.
    fn page(&self, model: &HubModel) -> Url {
        self.address(&model.repository.split('/').collect::<Vec<_>>())
    }

    /// The address of a file of a commit.
    pub fn file(&self, model: &HubModel, commit: &str, name: &str) -> Url {
        let mut parts: Vec<&str> = model.repository.split('/').collect();
        parts.extend(["resolve", commit, name]);
        self.address(&parts)
    }

    /// The files of a revision.
    pub async fn listing(&self, model: &HubModel) -> Result<Listing, Trouble> {
        let mut parts = vec!["api", "models"];
        parts.extend(model.repository.split('/'));
        parts.extend(["revision", &model.revision]);
        let mut url = self.address(&parts);
        url.set_query(Some("blobs=true"));
        let strange = || {
            let error = Error::endpoint(format!("what {} answers is no listing of a model's files", self.host()));
            Trouble::Lasting(error.help("HF_ENDPOINT is the address of a hub, like https://huggingface.co"))
        };
        let (_, mut response) = self.send(model, Method::GET, url, 0).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(&error))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LISTING {
                return Err(strange());
            }
        }
        let listing: Listing = serde_json::from_slice(&bytes).map_err(|_| strange())?;
        // It becomes a folder's name.
        if good(&listing.sha) { Ok(listing) } else { Err(strange()) }
    }

    /// What the cache calls a file, and its bytes, where the listing does not say it.
    pub async fn about(&self, model: &HubModel, url: Url) -> Result<(String, Option<u64>), Trouble> {
        let (own, response) = self.send(model, Method::HEAD, url, 0).await?;
        let header = |name: &str| own.get(name)?.to_str().ok().map(str::to_owned);
        let etag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // The length of a redirect is not the file's.
        let length = header("content-length").filter(|_| response.status().is_success());
        let size = header("x-linked-size").or(length).and_then(|size| size.parse().ok());
        match good(&etag) {
            true => Ok((etag, size)),
            false => {
                let message = format!("{} does not say which version of a file it has (no ETag)", self.host());
                Err(Trouble::Lasting(Error::endpoint(message).help(get_it_otherwise(model))))
            }
        }
    }

    /// A file from some byte on.
    pub async fn download(&self, model: &HubModel, url: Url, from: u64) -> Result<Response, Trouble> {
        self.send(model, Method::GET, url, from).await.map(|(_, response)| response)
    }

    /// Sends a request, and follows where it is sent on to: the token goes to the hub's own address alone, whatever it is
    /// asked for. Gives the headers that the hub itself sent, and the answer. Of a `HEAD` the hub's own answer is the last.
    async fn send(
        &self,
        model: &HubModel,
        method: Method,
        url: Url,
        from: u64,
    ) -> Result<(HeaderMap, Response), Trouble> {
        let mut url = url;
        let mut headers = HeaderMap::new();
        for _ in 0..HOPS {
            let own = url.origin() == self.base.origin();
            let mut request = self.client.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, token.header.clone());
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await.map_err(|error| self.unreached(&url, &error))?;
            if own {
                headers.extend(response.headers().clone());
            }
            let status = response.status();
            let to = response.headers().get(LOCATION).and_then(|to| url.join(to.to_str().ok()?).ok());
            match to.filter(|_| status.is_redirection()) {
                None if status.is_success() => return Ok((headers, response)),
                None => return Err(self.refusal(model, &url, status, response.headers())),
                Some(to) => {
                    let secure = to.scheme() == "https" || (to.scheme() == "http" && url.scheme() == "http");
                    if !secure {
                        let message = format!("{} sends on to {}, which is not reached by TLS", host(&url), host(&to));
                        return Err(Trouble::Lasting(Error::endpoint(message).help(get_it_otherwise(model))));
                    }
                    if method == Method::HEAD && to.origin() != self.base.origin() {
                        return Ok((headers, response));
                    }
                    url = to;
                }
            }
        }
        let message = format!("{} sends on and on, and gives nothing", self.host());
        Err(Trouble::Lasting(Error::endpoint(message).help(get_it_otherwise(model))))
    }

    fn unreached(&self, url: &Url, error: &reqwest::Error) -> Trouble {
        if !error.is_connect() {
            return self.broken(error);
        }
        // Addresses that the hub sends on to may hold signatures.
        let error = Error::endpoint(unreached(error, &host(url)));
        Trouble::Away(error.help("is there a network? `hf download` and local:PATH are other ways to a model; HTTPS_PROXY names a proxy, HF_ENDPOINT another hub"))
    }

    /// The connection ended before its time.
    pub fn broken(&self, error: &reqwest::Error) -> Trouble {
        let why = if error.is_timeout() { "nothing came for a minute".to_owned() } else { root_cause(error) };
        let error = Error::endpoint(format!("the connection to {} broke: {why}", self.host()));
        Trouble::Passing(error.help("what was downloaded is kept: the same command goes on from there"))
    }

    /// What a refusal means. Nothing of what the hub writes is repeated: who knows the token could write it.
    fn refusal(&self, model: &HubModel, url: &Url, status: StatusCode, headers: &HeaderMap) -> Trouble {
        let (name, revision, hub) = (&model.repository, &model.revision, self.host());
        let page = self.page(model);
        let lasting = |message: String, help: String| Trouble::Lasting(Error::endpoint(message).help(help));
        let own = url.origin() == self.base.origin();
        let code = headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let keep = "`hf auth login` keeps one, or set HF_TOKEN";
        match (code, status.as_u16(), &self.token) {
            (_, 408 | 429 | 500.., _) => {
                let error = Error::endpoint(format!("{} answers {}", host(url), status.as_u16()));
                Trouble::Passing(error.help("it may be busy: the same command later goes on from what is there"))
            }
            _ if !own => Trouble::Passing(Error::endpoint(format!("{} answers {}", host(url), status.as_u16()))),
            ("GatedRepo", _, None) => lasting(
                format!("`{name}` is gated: {hub} gives it only to who accepted its terms"),
                format!("accept them on {page}, then give a token of that account: {keep}"),
            ),
            ("GatedRepo", _, Some(token)) | (_, 403, Some(token)) => lasting(
                format!("{hub} does not give `{name}` to the account of the token in {}", token.origin),
                format!(
                    "if it is gated, accept its terms on {page}; a fine-grained token must be allowed to read gated repositories"
                ),
            ),
            ("RevisionNotFound", ..) => lasting(
                format!("`{name}` has no revision `{revision}` at {hub}"),
                format!("its branches, tags and commits are on {page}; hf:{name} alone is `main`"),
            ),
            ("EntryNotFound", ..) => lasting(format!("a file of `{name}` is gone from {hub}"), get_it_otherwise(model)),
            (code, 401, Some(token)) if code != "RepoNotFound" => lasting(
                format!("{hub} does not accept the token in {}", token.origin),
                format!("make one on {}: {keep}; a public model needs none", self.address(&["settings", "tokens"])),
            ),
            (_, 401 | 403 | 404, token) => {
                let unseen = match token {
                    None => format!("; a private or gated one needs a token: {keep}"),
                    Some(token) => {
                        format!("; a private one needs an account that may see it, and {} has another", token.origin)
                    }
                };
                let revision =
                    if revision == "main" { String::new() } else { format!(", or no revision `{revision}`") };
                lasting(
                    format!("there is no model `{name}`{revision} at {hub} ({})", status.as_u16()),
                    format!("models are named as on their pages, like hf:Qwen/Qwen3-0.6B{unseen}"),
                )
            }
            _ => lasting(format!("{hub} answers {}", status.as_u16()), get_it_otherwise(model)),
        }
    }
}

/// The other ways to a model.
pub fn get_it_otherwise(model: &HubModel) -> String {
    format!("try `hf download {}`, or give the model's folder as local:PATH", model.arguments())
}

/// A host in words, with its port where it is not the usual one.
fn host(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The hub's address.
fn base(given: &str) -> Result<Url> {
    let given = given.trim();
    let text = if given.is_empty() { HUB } else { given.trim_end_matches('/') };
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let plain = |url: &Url| {
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none()
    };
    // It may hold a password: it is not repeated.
    url.filter(plain).ok_or_else(|| {
        Error::usage("what HF_ENDPOINT says is no address of a hub")
            .help("it is like https://huggingface.co, without a name, a password or anything after `?`")
    })
}

/// The user's token, as Hugging Face's own tools find it.
fn token() -> Result<Option<Token>> {
    if switched_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    let named = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(|name| {
        let value = std::env::var(name).ok()?.trim().to_owned();
        (!value.is_empty()).then(|| (name.to_owned(), value))
    });
    let found = match named {
        Some(found) => Some(found),
        None => match set("HF_TOKEN_PATH").or_else(|| home().map(|home| home.join("token"))) {
            Some(path) => match std::fs::read_to_string(&path) {
                Ok(text) => {
                    Some((path.display().to_string(), text.trim().to_owned())).filter(|(_, text)| !text.is_empty())
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(unreadable(&path, &error)),
            },
            None => None,
        },
    };
    found
        .map(|(origin, text)| {
            let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| {
                Error::endpoint(format!("the token in {origin} holds characters that no token has"))
                    .help("it may hold a line break, or be another file than you think")
            })?;
            header.set_sensitive(true);
            Ok(Token { origin, header })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_a_hub_and_are_not_repeated_where_they_are_not() {
        assert_eq!(base("").unwrap().as_str(), "https://huggingface.co/");
        let hub = base("http://127.0.0.1:8000/mirror/").unwrap();
        let hub = Hub::at(hub, None).unwrap();
        let model = HubModel::read("org/name").unwrap();
        let file = hub.file(&model, "abc", "a #1?.safetensors");
        assert_eq!(file.as_str(), "http://127.0.0.1:8000/mirror/org/name/resolve/abc/a%20%231%3F.safetensors");
        assert_eq!((hub.host().as_str(), hub.page(&model).path()), ("http://127.0.0.1:8000", "/mirror/org/name"));
        for bad in ["huggingface.co", "ftp://a", "https://me:secret@a", "https://a?token=secret"] {
            let error = base(bad).unwrap_err();
            assert!(!format!("{error} {:?}", error.advice()).contains("secret"), "{bad}");
        }
    }
}
