//! Keys and reachability of endpoints: the free list of models where there is a key, else a mere connection.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;

use super::Check;
use crate::backend::http::{Http, needs_key};
use crate::backend::{Endpoint, Endpoints, ProviderKind, replay};
use crate::cli::small_runtime;
use crate::diagnostic::{Error, Result};
use crate::provider::FailureKind;
use crate::report::words;

/// How long an endpoint may take to list its models.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at all endpoints at once; `true` for those that are needed. `models` are to be asked.
pub fn all(
    asked: &[(usize, &Endpoint, bool)],
    models: &[String],
    endpoints: &Endpoints,
    offline: bool,
) -> Result<Vec<Check>> {
    let runtime = small_runtime()?;
    let ids = |at: usize| -> BTreeMap<String, String> {
        let served = models.iter().filter_map(|name| endpoints.model(name).ok());
        served.filter(|model| model.endpoints.contains(&at)).map(|model| (model.id, model.name)).collect()
    };
    let each = asked.iter().map(|&(at, endpoint, needed)| one(endpoint, needed, ids(at), offline));
    Ok(runtime.block_on(join_all(each)).into_iter().flatten().collect())
}

async fn one(endpoint: &Endpoint, needed: bool, models: BTreeMap<String, String>, offline: bool) -> Vec<Check> {
    let name = &endpoint.name;
    match endpoint.provider {
        ProviderKind::Mock => return vec![Check::ok("endpoint", format!("`{name}`: made up, in this process"))],
        ProviderKind::Replay => {
            let path = endpoint.cassette.as_deref().unwrap_or(Path::new(""));
            return vec![match replay::Cassette::load(path) {
                Ok(_) => Check::ok("endpoint", format!("`{name}`: recorded answers of {}", path.display())),
                Err(error) => Check::problem("endpoint", &error),
            }];
        }
        _ if !endpoint.provider.over_http() => {
            return vec![Check::ok("endpoint", format!("`{name}`: in this process"))];
        }
        _ => {}
    }
    let (key, mut checks) = keys(endpoint, needed);
    if offline {
        return checks;
    }
    let reached = match key {
        true => listed(endpoint, &models).await,
        false => connected(endpoint).await,
    };
    checks.push(match reached {
        Ok(check) => check,
        // What this task does not ask need not be there.
        Err(error) if !needed => {
            Check::warning("endpoint", format!("`{name}`: {}", error.message()), "nothing asks it for now")
        }
        Err(error) => Check::problem("endpoint", &error),
    });
    checks
}

/// Whether a key is there (or none is needed), and what is to be said of it.
fn keys(endpoint: &Endpoint, needed: bool) -> (bool, Vec<Check>) {
    let name = &endpoint.name;
    let set = |variable: &&String| std::env::var(variable).is_ok_and(|key| !key.trim().is_empty());
    let (present, absent): (Vec<&String>, Vec<&String>) = endpoint.api_key_envs.iter().partition(set);
    let list = |names: &[&String]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let mut checks = Vec::new();
    if !present.is_empty() {
        checks.push(Check::ok("key", format!("`{name}`: from {}", list(&present))));
        if !absent.is_empty() {
            let help = "the others share the load; take it out of api_key_env, or set it";
            checks.push(Check::warning("key", format!("`{name}`: {} is not set", list(&absent)), help));
        }
    }
    if let Some(path) = &endpoint.api_key_file {
        checks.push(key_file(endpoint, path));
    }
    let usable = |check: &Check| check.status != super::Status::Problem;
    let file = endpoint.api_key_file.is_some() && checks.last().is_some_and(usable);
    let key = !present.is_empty() || file;
    if !key && checks.is_empty() {
        let variables = list(&absent);
        match needs_key(endpoint) {
            true if needed => checks.push(Check::problem(
                "key",
                &Error::endpoint(format!("`{name}` needs a key, and {variables} is not set"))
                    .help(format!("export {variables}=..., or name another variable: api_key_env")),
            )),
            true => checks.push(Check::warning(
                "key",
                format!("`{name}`: {variables} is not set"),
                "nothing asks it for now",
            )),
            false => checks.push(Check::ok("key", format!("`{name}`: none, and none is needed"))),
        }
    }
    (key || !needs_key(endpoint), checks)
}

fn key_file(endpoint: &Endpoint, path: &Path) -> Check {
    let (name, file) = (&endpoint.name, endpoint.shown_key_file());
    match std::fs::read_to_string(path) {
        Err(error) => Check::problem("key", &Error::endpoint(format!("`{name}`: {file} cannot be read: {error}"))),
        Ok(text) if text.trim().is_empty() => {
            Check::problem("key", &Error::endpoint(format!("`{name}`: {file} is empty")))
        }
        Ok(_) if open_to_others(path) => Check::warning(
            "key",
            format!("`{name}`: from the file {}, which others than its owner may read", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
        Ok(_) => Check::ok("key", format!("`{name}`: from the file {}", path.display())),
    }
}

#[cfg(unix)]
fn open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn open_to_others(_path: &Path) -> bool {
    false
}

/// Asks for the free list of models.
async fn listed(endpoint: &Endpoint, models: &BTreeMap<String, String>) -> Result<Check> {
    let name = &endpoint.name;
    let http = Http::open(endpoint)?;
    let list = match tokio::time::timeout(PATIENCE, http.models()).await {
        Err(_) => {
            return Err(Error::endpoint(format!("`{name}` did not answer within {} s", PATIENCE.as_secs()))
                .help(format!("is {} right, and the network there?", endpoint.base_url)));
        }
        Ok(list) => list,
    };
    match list {
        Ok(list) => {
            // A deployment has a name of its own.
            let strangers: Vec<&str> = match endpoint.deployments.is_empty() && endpoint.provider != ProviderKind::Azure
            {
                true => models.iter().filter(|(id, _)| !list.contains(id)).map(|(_, name)| name.as_str()).collect(),
                false => Vec::new(),
            };
            let found = format!(
                "`{name}`: {} answers, and lists {}",
                endpoint.base_url,
                words::plural(list.len() as u64, "model")
            );
            Ok(match strangers.is_empty() {
                true => Check::ok("endpoint", found),
                false => Check::warning(
                    "endpoint",
                    format!("{found}, but not {}", strangers.join(", ")),
                    "it may still know it; else check the name",
                ),
            })
        }
        // Small servers have no list; that they answered is enough.
        Err(failure) if matches!(failure.kind, FailureKind::UnknownModel | FailureKind::BadRequest) => {
            Ok(Check::ok("endpoint", format!("`{name}`: {} answers, and lists no models", endpoint.base_url)))
        }
        Err(failure) => {
            let help = match failure.kind {
                FailureKind::Authentication => "the key is refused: check it",
                _ => "is it running, and is its base_url right?",
            };
            Err(Error::endpoint(format!("`{name}`: {failure}")).help(help))
        }
    }
}

/// Connects, and says nothing.
async fn connected(endpoint: &Endpoint) -> Result<Check> {
    let (name, address) = (&endpoint.name, &endpoint.base_url);
    let url = reqwest::Url::parse(address)
        .map_err(|error| Error::usage(format!("`{name}`: {address} is no address: {error}")))?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(Error::usage(format!("`{name}`: {address} names no host")));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(Check::ok("endpoint", format!("`{name}`: {address} can be reached"))),
        Ok(Err(error)) => Err(Error::endpoint(format!("`{name}`: {address} cannot be reached: {error}"))),
        Err(_) => Err(Error::endpoint(format!("`{name}`: {address} did not answer within {} s", PATIENCE.as_secs()))),
    }
}
