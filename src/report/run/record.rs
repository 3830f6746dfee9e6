//! A run's record of events, read back.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::Evaluation;
use crate::diagnostic::Result;
use crate::event::Event;
use crate::provider::{Failure, FailureKind};
use crate::space::Configuration;
use crate::store::Fingerprint;

/// What a run's record says.
#[derive(Default)]
pub(super) struct Record {
    pub trials: Vec<Configuration>,
    pub dropped: BTreeMap<u32, String>,
    pub instances: Vec<String>,
    pub evaluations: Vec<Evaluation>,
    pub failures: Vec<Failure>,
    pub offered: usize,
}

impl Record {
    pub fn read(path: &Path, gaps: &mut Vec<String>) -> Result<Record> {
        let mut record = Record::default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(_) => {
                gaps.push("The run's record, events.jsonl, is not there: nothing is shown by instance.".to_owned());
                return Ok(record);
            }
        };
        let (mut reader, mut line, mut number) = (BufReader::new(file), Vec::new(), 0);
        let (mut places, mut kinds) = (HashMap::new(), HashMap::new());
        loop {
            line.clear();
            let read =
                reader.read_until(b'\n', &mut line).map_err(|error| crate::diagnostic::unreadable(path, &error))?;
            // The last line of a run that goes on may be half there.
            if read == 0 || line.last() != Some(&b'\n') {
                return Ok(record);
            }
            number += 1;
            let event: Event = match serde_json::from_slice(&line) {
                Ok(event) => event,
                Err(error) => {
                    gaps.push(format!("events.jsonl is understood only up to line {}: {error}.", number - 1));
                    return Ok(record);
                }
            };
            record.add(event, &mut places, &mut kinds);
        }
    }

    fn add(
        &mut self,
        event: Event,
        places: &mut HashMap<String, u32>,
        kinds: &mut HashMap<(FailureKind, String), u32>,
    ) {
        match event {
            Event::Started { instances, .. } => self.offered = instances,
            // Trials are numbered as they begin; anything else is not of this program.
            Event::TrialStarted { trial, configuration } if trial == self.trials.len() => {
                self.trials.push(configuration);
            }
            Event::TrialDropped { trial, reason } => drop(self.dropped.insert(trial as u32, reason)),
            Event::EvaluationFinished {
                trial,
                instance,
                score,
                failure,
                cost_usd,
                requests,
                metrics,
                production_usd,
                tokens,
                fingerprint,
            } if trial < self.trials.len() => {
                let next = self.instances.len() as u32;
                let place = *places.entry(instance.clone()).or_insert(next);
                if place == next {
                    self.instances.push(instance);
                }
                let failure = failure.map(|failure| {
                    let next = self.failures.len() as u32;
                    let at = *kinds.entry((failure.kind, failure.message.clone())).or_insert(next);
                    if at == next {
                        self.failures.push(failure);
                    }
                    at
                });
                self.evaluations.push(Evaluation {
                    trial: trial as u32,
                    instance: place,
                    score: score.filter(|_| failure.is_none()),
                    failure,
                    cost: cost_usd,
                    production: production_usd,
                    tokens,
                    requests,
                    metrics,
                    fingerprint: fingerprint.as_deref().and_then(fingerprint_of),
                });
            }
            _ => {}
        }
    }
}

/// Reads 64 hexadecimal digits.
fn fingerprint_of(text: &str) -> Option<Fingerprint> {
    let bytes = text.as_bytes();
    let mut print = [0; 32];
    if bytes.len() != 64 {
        return None;
    }
    for (byte, pair) in print.iter_mut().zip(bytes.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Fingerprint(print))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_back() {
        let print = Fingerprint(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(fingerprint_of(&print.to_string()), Some(print));
        assert!(fingerprint_of("00").is_none() && fingerprint_of(&"zz".repeat(32)).is_none());
        assert!(fingerprint_of(&"é".repeat(32)).is_none());
    }

    #[test]
    fn a_record_that_breaks_off_is_read_up_to_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let lines = [
            r#"{"event":"started","task":"t","strategy":"s","instances":9,"already_spent_usd":"0"}"#,
            r#"{"event":"trial_started","trial":0,"configuration":{"model":"mock-small"}}"#,
            r#"{"event":"evaluation_finished","trial":0,"instance":"a","score":1.0,"cost_usd":"0.5","requests":1}"#,
            r#"{"event":"evaluation_finished","trial":7,"instance":"a","score":1.0,"cost_usd":"0.5","requests":1}"#,
            r#"{"event":"best_changed","trial":0,"score":1.0}"#,
            r#"{"event":"evaluation_finished","trial":0,"instance":"b","failure":{"kind":"timeout","message":"x"},"cost_usd":"0","requests":1}"#,
        ];
        std::fs::write(&path, lines.join("\n") + "\n{\"event\":\"evaluation_fin").unwrap();
        let mut gaps = Vec::new();
        let record = Record::read(&path, &mut gaps).unwrap();
        assert!(gaps.is_empty(), "{gaps:?}");
        assert_eq!((record.trials.len(), record.evaluations.len(), record.offered), (1, 2, 9));
        assert_eq!(record.evaluations[0].cost, "0.5".parse().unwrap());
        assert_eq!((record.instances.len(), record.failures.len()), (2, 1));
        std::fs::write(&path, "{\"event\":\"nonsense\"}\n").unwrap();
        Record::read(&path, &mut gaps).unwrap();
        assert!(gaps[0].contains("line 0"), "{gaps:?}");
        Record::read(&folder.path().join("none"), &mut gaps).unwrap();
        assert!(gaps[1].contains("not there"), "{gaps:?}");
    }
}
