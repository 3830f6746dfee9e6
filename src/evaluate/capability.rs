//! The check before a cent is spent: does any configuration ask a model for what it cannot do?

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde_json::Value;

use crate::backend::Endpoints;
use crate::diagnostic::{Error, Result};
use crate::evaluate::Plan;
use crate::models::{Capabilities, Refused};
use crate::space::parameter::same;
use crate::space::{Configuration, Parameter, Role, Space, Values};

/// Spaces of at most so many points are gone through; of larger ones, configurations are drawn.
const POINTS: usize = 2_000;
/// Draws that look for a configuration in which a model meets a value that it refuses.
const DRAWS: usize = 2_000;

/// What a model of this name takes; of one that nobody serves nothing is known here.
pub fn of(endpoints: &Endpoints, model: &str) -> Capabilities {
    endpoints.model(model).map_or(Capabilities::ANY, |model| endpoints.takes(&model))
}

/// Checks that no configuration of a space, and not its baseline, asks a model for what it refuses.
///
/// `of` says what a model takes. Conditions and constraints are respected: a small space is gone through, in a larger one
/// every value that some model refuses is looked for by seeded draws, so a combination that constraints make very rare may
/// pass; the endpoint refuses it then.
///
/// # Errors
/// Bad input: names the parameter and the model, points at the parameter, and says which models can.
pub fn check_space(space: &Space, of: impl Fn(&str) -> Capabilities) -> Result<()> {
    let mut models = space.models();
    models.extend(space.baseline.as_ref().and_then(|baseline| Some(baseline.get("model")?.as_str()?.to_owned())));
    let strict: BTreeMap<String, Capabilities> =
        models.iter().map(|model| (model.clone(), of(model))).filter(|(_, all)| !all.any()).collect();
    if strict.is_empty() {
        return Ok(());
    }
    let body = |parameter: &&Parameter| matches!(parameter.role, Role::Api | Role::Body);
    let fields: BTreeSet<&str> =
        space.parameters.iter().filter(body).map(|parameter| parameter.name.as_str()).collect();
    let wrong = |configuration: &Configuration| {
        let model = configuration.get("model").and_then(Value::as_str)?;
        let sent = configuration.0.iter().filter(|(name, _)| fields.contains(name.as_str()));
        Refused::find(strict.get(model)?, model, &sent.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    let small = space.size().is_some_and(|points| points <= POINTS as u128);
    let found = space.baseline.as_ref().and_then(wrong).or_else(|| match small.then(|| space.enumerate(POINTS)) {
        Some(Ok(all)) => all.iter().find_map(wrong),
        _ => models.iter().find_map(|model| drawn(space, model, strict.get(model)?, &wrong)),
    });
    found.map_or(Ok(()), |found| Err(error(space, &models, &of, &found)))
}

/// Checks the one configuration of a plan.
///
/// # Errors
/// Bad input: names the parameter and the model, and says which known models can.
pub fn check_plan(plan: &Plan) -> Result<()> {
    plan.service.takes.check("the configuration", &plan.service.model.name, &plan.params)
}

/// Looks for a configuration that a model refuses: its refused values are pinned one by one, the rest is drawn.
fn drawn(
    space: &Space,
    model: &str,
    all: &Capabilities,
    wrong: &impl Fn(&Configuration) -> Option<Refused>,
) -> Option<Refused> {
    let mut rng = ChaCha12Rng::seed_from_u64(0);
    let asked = Value::from(model);
    let excluded = |parameter: &&Parameter| {
        let of_model = |values: &[Value]| values.iter().any(|value| same(value, &asked));
        parameter.when.iter().any(|condition| condition.parameter == "model" && !of_model(&condition.values))
    };
    let named: Vec<&str> = all.named().collect();
    let about = |parameter: &&Parameter| {
        matches!(parameter.role, Role::Api | Role::Body)
            && named.contains(&parameter.name.as_str())
            && !excluded(parameter)
    };
    let parameters: Vec<&Parameter> = space.parameters.iter().filter(about).collect();
    let mut pins: Vec<Option<(&str, Value)>> = Vec::new();
    for parameter in &parameters {
        let refused = samples(&parameter.values, &mut rng);
        let refused = refused.into_iter().filter(|value| all.refuses(&parameter.name, value).is_some());
        pins.extend(refused.map(|value| Some((parameter.name.as_str(), value))));
    }
    // What is refused only together has no value to pin.
    pins.push(None);
    if parameters.is_empty() && pins.len() == 1 {
        return None;
    }
    let share = (DRAWS / pins.len()).max(100);
    for pin in pins {
        for _ in 0..share {
            let values = space.parameters.iter().map(|parameter| {
                let drawn = parameter.values.draw(&mut rng);
                let value = match &pin {
                    _ if parameter.role == Role::Model => asked.clone(),
                    Some((name, value)) if *name == parameter.name => value.clone(),
                    _ => drawn,
                };
                (parameter.name.clone(), value)
            });
            let configuration = space.settle(&values.collect());
            let found = wrong(&configuration).filter(|_| space.broken(&configuration).is_none());
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// Values of a parameter that stand for all: every choice, or the ends of a range and some between.
fn samples(values: &Values, rng: &mut ChaCha12Rng) -> Vec<Value> {
    match values {
        Values::Constant(value) => vec![value.clone()],
        Values::Choices(choices) => choices.clone(),
        Values::Float { low, high, .. } => {
            let mut some = vec![values.first()];
            some.extend((0..4).map(|_| values.draw(rng)));
            // The upper end may lie off the grid of a step.
            some.extend(values.count().is_none().then(|| Value::from(*high)).filter(|_| low < high));
            some.extend(values.count().filter(|count| *count > 0).map(|count| values.nth(count - 1)));
            some
        }
        Values::Int { .. } => {
            let last = values.count().map(|count| values.nth(count - 1));
            std::iter::once(values.first()).chain(last).collect()
        }
    }
}

fn error(space: &Space, models: &[String], of: &impl Fn(&str) -> Capabilities, found: &Refused) -> Error {
    let Refused { model, parameter, asked, .. } = found;
    let mut help = String::new();
    let can = |other: &&String| of(other).refuses(parameter, asked).is_none() && *other != model;
    let able: Vec<&String> = models.iter().filter(can).collect();
    let mut able: Vec<String> = able.into_iter().map(|name| format!("`{name}`")).collect();
    able.dedup();
    let only = able.iter().map(|name| name.replace('`', "\"")).collect::<Vec<_>>().join(", ");
    match able.is_empty() {
        false => {
            help +=
                &format!("of this space {} can: write when = {{ model = [{only}] }} into `{parameter}`", listed(&able));
        }
        true => help += &format!("no model of this space can: leave `{parameter}` out"),
    }
    if let Some(others) = found.able() {
        help += &format!("; of the known models, {others} and others can (see `farthing models`)");
    }
    help += &format!(
        "; an endpoint that takes it all the same: [models.\"{model}\"] check_parameters = false in farthing.toml"
    );
    let error = Error::usage(found.message("the space")).help(help);
    match &space.origin {
        Some((source, spans)) => match spans.parameters.get(parameter) {
            Some(span) => error.at(source, span.clone(), "this parameter"),
            None => error,
        },
        None => error,
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;
    use serde_json::json;
    use std::path::Path;

    const HEAD: &str = r#"
[space]
name = "x"
[params.prompt]
type = "categorical"
choices = [{ name = "a", template = "{{ q }}" }]
"#;

    fn space(text: &str) -> Space {
        let source = Source::new("space.toml", format!("{HEAD}{text}"));
        crate::space::file::read(&source, Path::new(".")).unwrap()
    }

    fn openai(model: &str) -> Capabilities {
        Capabilities::of("openai", model)
    }

    fn problem(text: &str) -> Option<Error> {
        check_space(&space(text), openai).err()
    }

    const MODELS: &str = "[params.model]\ntype = \"categorical\"\nchoices = [\"gpt-4o\", \"o3-mini\"]\n";

    #[test]
    fn the_error_names_the_parameter_the_model_and_who_can() {
        let text = format!("{MODELS}[params.temperature]\ntype = \"float\"\nlow = 0.0\nhigh = 0.9\n");
        let error = problem(&text).unwrap();
        assert!(error.message().contains("`o3-mini`") && error.message().contains("`temperature`"), "{error:?}");
        assert_eq!(error.location().unwrap(), "space.toml:10:9", "the parameter's name in the file");
        let help = error.advice().unwrap();
        assert!(help.contains("of this space `gpt-4o` can: write when = { model = [\"gpt-4o\"] }"), "{help}");
        assert!(help.contains("of the known models, `"), "{help}");
    }

    #[test]
    fn the_default_is_no_refusal() {
        assert!(problem(&format!("{MODELS}[params.temperature]\nvalue = 1.0\n")).is_none());
        assert!(problem(&format!("{MODELS}[params.temperature]\nvalue = 0.5\n")).is_some());
        assert!(problem(&format!("{MODELS}[params.max_tokens]\nvalue = 100\n[params.n]\nvalue = 3\n")).is_none());
    }

    #[test]
    fn conditions_and_constraints_are_respected() {
        for range in ["type = \"categorical\"\nchoices = [0.0, 0.5]", "type = \"float\"\nlow = 0.0\nhigh = 0.9"] {
            let temperature = format!("{MODELS}[params.temperature]\n{range}\n");
            assert!(problem(&temperature).is_some(), "{range}");
            assert!(problem(&format!("{temperature}when = {{ model = \"gpt-4o\" }}\n")).is_none(), "{range}");
            let ruled_out = "[[constraints]]\nexpr = \"model == 'gpt-4o'\"\n";
            assert!(problem(&format!("{temperature}{ruled_out}")).is_none(), "{range}");
            let gated = "when = { sampling = \"hot\" }\n[params.sampling]\ntype = \"categorical\"\nchoices = [\"hot\", \"cold\"]\n";
            assert!(problem(&format!("{temperature}{gated}")).is_some(), "{range}");
            let apart = "[[constraints]]\nexpr = \"not (model == 'o3-mini' and sampling == 'hot')\"\n";
            assert!(problem(&format!("{temperature}{gated}{apart}")).is_none(), "{range}");
        }
    }

    #[test]
    fn a_rare_value_of_a_large_space_is_found() {
        let rare = r#"
[params.max_tokens]
type = "int"
low = 1
high = 4096
[params.seed]
type = "int"
low = 0
high = 1000000
[params.stop]
type = "categorical"
choices = [[], ["a"], ["b"], ["c"], ["a", "b", "c", "d", "e"]]
"#;
        let models: Vec<String> = (0..40).map(|at| format!("\"served-{at}\"")).collect();
        let list = format!("[params.model]\ntype = \"categorical\"\nchoices = [{}, \"gpt-4o\"]\n", models.join(", "));
        let error = problem(&format!("{list}{rare}")).unwrap();
        assert!(error.message().contains("`gpt-4o`") && error.message().contains("more than 4 texts"), "{error:?}");
        assert!(error.advice().unwrap().contains("`served-0`"), "{error:?}");
    }

    #[test]
    fn what_is_refused_together_is_found_in_any_space() {
        let models = "[params.model]\nvalue = \"gpt-5.1\"\n";
        for effort in ["type = \"categorical\"\nchoices = [\"none\", \"high\"]", "value = \"low\""] {
            for temperature in ["value = 0.3", "type = \"float\"\nlow = 0.0\nhigh = 0.9"] {
                let both =
                    format!("{models}[params.reasoning_effort]\n{effort}\n[params.temperature]\n{temperature}\n");
                let error = problem(&both).unwrap();
                assert!(error.message().contains("while it reasons"), "{error:?}");
            }
        }
        assert!(problem(&format!("{models}[params.temperature]\nvalue = 0.3\n")).is_none());
    }

    #[test]
    fn the_baseline_is_checked_too() {
        let text =
            format!("{MODELS}[params.temperature]\nvalue = 1.0\n[baseline]\nmodel = \"o3-mini\"\ntemperature = 0.2\n");
        assert!(problem(&text).unwrap().message().contains("0.2"));
    }

    #[test]
    fn a_model_of_the_responses_api_has_no_stop() {
        let models = "[params.model]\ntype = \"categorical\"\nchoices = [\"gpt-4o\", \"o1-pro\"]\n";
        assert!(problem(models).is_none());
        let error = problem(&format!("{models}[params.stop]\nvalue = [\"x\"]\n")).unwrap();
        assert!(error.message().contains("the Responses API"), "{error:?}");
    }

    #[test]
    fn more_than_a_model_writes_is_refused() {
        let read = |text: &str| Endpoints::read(&Source::new("farthing.toml", text), Path::new(".")).unwrap();
        let params = |name: &str, most: u64| -> BTreeMap<String, Value> { [(name.to_owned(), json!(most))].into() };
        let standard = Endpoints::standard();
        let check = |endpoints: &Endpoints, model: &str, params| of(endpoints, model).check("it", model, &params);
        let asked = |model: &str, name: &str, most| check(&standard, model, params(name, most));
        assert!(asked("gpt-4o", "max_tokens", 16_384).is_ok());
        for name in ["max_tokens", "max_completion_tokens"] {
            let error = asked("gpt-4o", name, 16_385).unwrap_err();
            assert!(error.message().contains(&format!("`{name}` = 16385, and it takes no `{name}` above 16384")));
            assert!(error.message().contains("max_output_tokens"), "where to say otherwise: {error:?}");
        }
        let own = "[endpoints.own]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n[models.m]\n";
        let limit = |line: &str| check(&read(&format!("{own}{line}\n")), "m", params("max_tokens", 900));
        assert!(limit("").is_ok(), "nobody knows");
        assert!(limit("max_output_tokens = 899").unwrap_err().message().contains("above 899"));
        assert!(limit("max_output_tokens = 900").is_ok());
        assert!(limit("max_output_tokens = 899\ncheck_parameters = false").is_ok());
        let dropping = own.replace("[models.m]", "drop_params = [\"max_tokens\"]\n[models.m]");
        let unsent = read(&format!("{dropping}max_output_tokens = 899\n"));
        assert!(check(&unsent, "m", params("max_tokens", 900)).is_ok(), "it is never sent");
        let space =
            space("[params.model]\nvalue = \"gpt-4o\"\n[params.max_tokens]\ntype = \"int\"\nlow = 9\nhigh = 20000\n");
        let error = check_space(&space, |name| of(&standard, name)).unwrap_err();
        assert!(error.message().contains("`max_tokens` above 16384"), "{error:?}");
    }

    #[test]
    fn a_list_price_holds_for_no_more_than_it_is_for() {
        let read = |text: &str| Endpoints::read(&Source::new("farthing.toml", text), Path::new(".")).unwrap();
        let listed = read("[endpoints.o]\nprovider = \"openai\"\n[endpoints.a]\nprovider = \"anthropic\"\n");
        let priced = read(
            "[endpoints.a]\nprovider = \"anthropic\"\n[models.claude-opus-4-6]\nprice = { input = 30, output = 150 }\n",
        );
        for (model, name, value) in [
            ("gpt-5", "service_tier", json!("priority")),
            ("claude-opus-4-6", "speed", json!("fast")),
            ("claude-opus-4-6", "cache_control", json!({"type": "ephemeral", "ttl": "1h"})),
        ] {
            let params: BTreeMap<String, Value> = [(name.to_owned(), value)].into();
            let error = of(&listed, model).check("it", model, &params).unwrap_err();
            assert!(
                error.message().contains(&format!("`{name}`")) && error.message().contains("list price"),
                "{error:?}"
            );
            assert!(of(&priced, "claude-opus-4-6").check("it", model, &params).is_ok(), "its price is the user's word");
        }
        for (name, value) in [("service_tier", json!("flex")), ("cache_control", json!({"type": "ephemeral"}))] {
            let params: BTreeMap<String, Value> = [(name.to_owned(), value)].into();
            assert!(of(&listed, "gpt-5").check("it", "gpt-5", &params).is_ok(), "{name}");
        }
        let tier = "[params.model]\nvalue = \"gpt-5\"\n[params.service_tier]\ntype = \"categorical\"\nchoices = [\"auto\", \"priority\"]\n";
        assert!(check_space(&space(tier), |name| of(&listed, name)).is_err());
        let checked = |more: &str| {
            let text = format!("[params.model]\nvalue = \"claude-opus-4-6\"\n[params.speed]\nvalue = \"fast\"\n{more}");
            check_space(&space(&text), |name| of(&listed, name))
        };
        assert!(checked("body = true\n").is_err());
        assert!(checked("[[constraints]]\nexpr = \"speed == 'fast'\"\n").is_ok(), "a word of the space's own");
    }

    #[test]
    fn capabilities_go_by_the_endpoint() {
        let read = |text: &str| Endpoints::read(&Source::new("farthing.toml", text), Path::new(".")).unwrap();
        assert!(!of(&Endpoints::standard(), "o3").any());
        let own = "[endpoints.own]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n";
        assert!(!of(&read(own), "o3").any(), "a gateway to OpenAI's models");
        assert!(of(&read(own), "llama").any(), "a server of the user's own");
        let waived = read(&format!("{own}[models.o3]\ncheck_parameters = false\n"));
        assert_eq!(of(&waived, "o3").refuses("temperature", &json!(0.2)), None);
        assert!(of(&read("[endpoints.fake]\nprovider = \"mock\"\n"), "o3").any());
        assert!(of(&Endpoints::standard(), "nobody-knows-it").any());
    }
}
