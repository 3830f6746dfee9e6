//! The first look at every row, before anything is sent: ids, groups, models, parameters; what is wrong is said by its line.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::apis::Apis;
use super::ask::{self, Entry};
use super::fields::{Fields, Row};
use super::folder::Settings;
use super::groups::Queued;
use super::input::{Input, Place};
use super::row::{self, Ask, Asked, Defaults, Fault, Who};
use crate::backend::ProviderKind;
use crate::diagnostic::{Error, Result};
use crate::provider::Request;
use crate::runner::{Runner, Service};

/// Rows that are wrong, as many as a message names.
pub const SHOWN: usize = 20;

/// What the first look found.
pub struct Index {
    /// Every row.
    pub entries: Vec<Entry>,
    /// The rows that can be asked, in the order of asking.
    pub order: Vec<u32>,
    /// Which of several rows that ask the same one is, where it is not the first.
    pub repeats: HashMap<u32, u32>,
    /// The queues by number, without their counts.
    pub queues: Vec<(String, Queued)>,
    /// The models of the rows, by group.
    pub groups: BTreeMap<String, BTreeSet<String>>,
    /// Who answers.
    pub services: Vec<Arc<Service>>,
    /// The first rows that are wrong: line and fault.
    pub wrong: Vec<(u32, Fault)>,
    /// How many are.
    pub wrong_rows: usize,
    /// Every column's name.
    pub columns: Vec<String>,
    /// Rows in prompto's form with the id of an earlier one.
    pub same_ids: usize,
}

/// What the first look needs.
pub struct Look<'a> {
    /// The rows.
    pub input: &'a Input,
    /// What was set.
    pub settings: &'a Settings,
    /// What rows do not say.
    pub defaults: &'a Defaults,
    /// Who answers.
    pub runner: &'a Runner,
    /// There is a budget.
    pub capped: bool,
}

type Seat = Result<(u32, u32), Fault>;

struct Looking<'a> {
    look: &'a Look<'a>,
    apis: &'a mut Apis,
    index: Index,
    seats: HashMap<(Option<String>, Who), Seat>,
    /// Ids (as hashes) and the lines that they stand on.
    ids: HashMap<[u8; 16], u32>,
    /// The row whose id is another one's, which ends it.
    twice: Option<Place>,
    /// How often each request was asked.
    asked: HashMap<[u8; 16], u32>,
    /// Rows for servers that load one model at a time: their places in the order, and their models.
    together: Vec<(usize, String)>,
}

/// Looks at every row. `found` is told of each row that is wrong. What makes the file unusable as a whole is an error.
pub fn index(
    look: &Look<'_>,
    apis: &mut Apis,
    mut found: impl FnMut(u32, &Fault, &Row) -> Result<()>,
) -> Result<Index> {
    let index = Index {
        entries: Vec::new(),
        order: Vec::new(),
        repeats: HashMap::new(),
        queues: Vec::new(),
        groups: BTreeMap::new(),
        services: Vec::new(),
        wrong: Vec::new(),
        wrong_rows: 0,
        columns: Vec::new(),
        same_ids: 0,
    };
    let (seats, ids, asked, together) = Default::default();
    let mut looking = Looking { look, apis, index, seats, ids, twice: None, asked, together };
    let looked = look.input.each(|place, read| {
        let Ok(number) = u32::try_from(looking.index.entries.len()) else {
            return Err(Error::usage("an experiment has at most 4 billion rows"));
        };
        let (fault, read) = match read {
            Ok(read) => match looking.row(number, place, &read)? {
                Ok(()) => return Ok(()),
                Err(fault) => (fault, read),
            },
            Err(fault) => (fault, Row::new(Fields(vec![("line".to_owned(), place.line.into())]))),
        };
        looking.index.entries.push(Entry { place, queue: u32::MAX, service: u32::MAX });
        looking.index.wrong_rows += 1;
        if looking.index.wrong.len() < SHOWN {
            looking.index.wrong.push((place.line, fault.clone()));
        }
        found(number, &fault, &read)
    });
    let Looking { mut index, mut together, twice, .. } = looking;
    if let Err(error) = looked {
        let Some(place) = twice else { return Err(error) };
        let text = look.input.first_line(place)?;
        let line = place.line.saturating_sub(1) as usize;
        return Err(error.at_line(look.input.name(), line, &text, 0..text.len().min(80), "the second row of that id"));
    }
    if index.entries.is_empty() {
        return Err(Error::usage(format!("{} holds no rows", look.input.name())));
    }
    // A server that loads one model at a time is asked for each model's rows together, among their own places.
    let places: Vec<usize> = together.iter().map(|(at, _)| *at).collect();
    together.sort_by(|a, b| a.1.cmp(&b.1));
    let sorted: Vec<u32> = together.iter().map(|(at, _)| index.order[*at]).collect();
    for (place, row) in places.into_iter().zip(sorted) {
        index.order[place] = row;
    }
    Ok(index)
}

impl Looking<'_> {
    /// One row: it stands in the index, or is wrong.
    fn row(&mut self, number: u32, place: Place, read: &Row) -> Result<Result<(), Fault>> {
        self.columns(&read.fields);
        self.id(place, read)?;
        let asked = match row::read(read, number as usize + 1, self.look.defaults) {
            Ok(asked) => asked,
            Err(fault) => return Ok(Err(fault)),
        };
        let (queue, service) = match self.seat(&asked) {
            Ok(seat) => seat,
            Err(fault) => return Ok(Err(fault)),
        };
        let serving = &self.index.services[service as usize];
        let request = match ask::request(&asked, read, &self.apis.endpoints, serving) {
            Ok(request) => request,
            Err(fault) => return Ok(Err(fault)),
        };
        if self.look.capped
            && let Err(error) = serving.check_bounded(&request)
        {
            return Ok(Err(error.into()));
        }
        self.repeat(number, &request, &asked, service);
        let model = &self.index.services[service as usize].model;
        let provider = model.endpoints.first().and_then(|&at| self.apis.endpoints.list.get(at)).map(|one| one.provider);
        if provider.is_some_and(ProviderKind::loads_one_model) {
            self.together.push((self.index.order.len(), model.id.clone()));
        }
        self.index.entries.push(Entry { place, queue, service });
        self.index.order.push(number);
        Ok(Ok(()))
    }

    fn columns(&mut self, fields: &Fields) {
        let known = &self.index.columns;
        let same = fields.0.len() == known.len() && fields.0.iter().zip(known).all(|((name, _), known)| name == known);
        if !same {
            for (name, _) in &fields.0 {
                if !self.index.columns.contains(name) {
                    self.index.columns.push(name.clone());
                }
            }
        }
    }

    /// Ids name rows in every result, so one that is there twice makes the file unusable; but prompto takes such files.
    fn id(&mut self, place: Place, read: &Row) -> Result<()> {
        if read.fields.filled("id").is_none() {
            return Ok(());
        }
        let id = row::id_of(&read.fields, 0);
        let Some(earlier) = self.ids.insert(short(id.as_bytes()), place.line) else { return Ok(()) };
        if read.fields.filled("api").is_some() {
            self.index.same_ids += 1;
            return Ok(());
        }
        self.twice = Some(place);
        Err(Error::usage(format!(
            "the id `{id}` is there twice, first on line {earlier} and again on line {}",
            place.line
        ))
        .help("ids name rows in every result, so each must be unique; rows without an id are named by their number"))
    }

    /// The queue and the service of a row.
    fn seat(&mut self, asked: &Asked) -> Seat {
        let key = (asked.group.clone(), asked.who.clone());
        if let Some(seat) = self.seats.get(&key) {
            return seat.clone();
        }
        let seat = self.open(asked);
        self.seats.insert(key, seat.clone());
        seat
    }

    fn open(&mut self, asked: &Asked) -> Seat {
        let found = self.apis.model(&asked.who);
        // A row that nobody serves has its group all the same.
        let group = asked.group.clone().or_else(|| match (&asked.who, &found) {
            (_, Ok((_, own))) => Some(own.clone()),
            (Who::Api { api, .. }, _) => Some(api.clone()),
            _ => None,
        });
        if let Some(group) = &group {
            self.index.groups.entry(group.clone()).or_default().insert(asked.who.model().to_owned());
        }
        let (mut model, own) = found?;
        if asked.completion {
            model.kind = Some(crate::backend::ModelKind::Text);
        }
        let group = group.unwrap_or(own);
        let endpoints = &self.apis.endpoints;
        let (name, rates) = self.look.settings.max_queries.queue(&group, asked.who.model(), endpoints);
        // What `[limits]` says is shared with endpoints and models that name the same table.
        let shared = endpoints.groups.get(&name) == rates.as_ref();
        let limit = if shared { name.clone() } else { format!("{name}\" of \"--max-queries") };
        let service = self.look.runner.open_under(
            endpoints,
            model,
            rates.map(|rates| (limit.as_str(), rates)),
            self.look.capped,
        )?;
        let queue = match self.index.queues.iter().position(|(known, _)| *known == name) {
            Some(at) => at,
            None => {
                let per_minute = rates.and_then(|rates| rates.requests_per_minute);
                self.index.queues.push((name, Queued { queries: 0, per_minute, models: BTreeMap::new() }));
                self.index.queues.len() - 1
            }
        };
        self.index.services.push(service);
        Ok((queue as u32, self.index.services.len() as u32 - 1))
    }

    /// Counts how often a request was asked.
    fn repeat(&mut self, number: u32, request: &Request, asked: &Asked, service: u32) {
        let print = self.index.services[service as usize].fingerprint(request);
        let key = match &asked.ask {
            Ask::Turns(turns) => short(format!("{print} {turns:?}").as_bytes()),
            _ => short(&print.0),
        };
        let times = self.asked.entry(key).or_insert(0);
        if *times > 0 {
            self.index.repeats.insert(number, *times);
        }
        *times += 1;
    }
}

fn short(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

/// The error that names rows that are wrong by their lines.
pub fn refusal(name: &str, wrong: &[(u32, Fault)], rows: usize) -> Error {
    let lines: Vec<String> = wrong.iter().map(|(line, fault)| format!("{name}:{line}: {fault}")).collect();
    let more = if rows > lines.len() { format!("\nand {} more", rows - lines.len()) } else { String::new() };
    let what = if rows == 1 { "1 row is wrong".to_owned() } else { format!("{rows} rows are wrong") };
    Error::usage(format!("{what}, and nothing was sent\n{}{more}", lines.join("\n")))
}
