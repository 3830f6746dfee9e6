//! The winner's settings in the forms that people copy: TOML, JSON, a curl command, a Python call. Never a key.

use serde_json::{Map, Value, json};

use crate::report::run::Run;
use crate::space::parameter::api_parameter;

/// One form.
pub struct Form {
    /// What it is called.
    pub name: &'static str,
    /// What to know of it.
    pub about: &'static str,
    /// What is copied.
    pub text: String,
}

/// All forms of a run's winner; none where there is no `best.toml`.
pub fn forms(run: &Run) -> Vec<Form> {
    let (Some(text), Some(served)) = (&run.best_toml, &run.served) else { return Vec::new() };
    let example = run.task.as_ref().and_then(|task| task.tune.first()).map(|instance| instance.fields.clone());
    vec![
        Form {
            name: "TOML",
            about: "best.toml: what farthing test and farthing evaluate --config take.",
            text: text.clone(),
        },
        Form {
            name: "JSON",
            about: "The request; texts in {{ }} are filled in from an instance.",
            text: pretty(&Value::Object(served.request.clone())),
        },
        Form {
            name: "curl",
            about: "The same request over HTTP, for a server that speaks OpenAI's API; fill in the texts in {{ }}.",
            text: curl(&served.request),
        },
        Form {
            name: "Python",
            about: "The same with the openai package, for such a server; prompts are Jinja templates.",
            text: python(&served.request, example.as_ref()),
        },
    ]
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// The variables of the templates, and the body without them.
fn parted(request: &Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let mut body = request.clone();
    let variables = match body.remove("variables") {
        Some(Value::Object(variables)) => variables,
        _ => Map::new(),
    };
    (variables, body)
}

/// A text within single quotes of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn curl(request: &Map<String, Value>) -> String {
    let (variables, body) = parted(request);
    let path = if body.contains_key("messages") { "chat/completions" } else { "completions" };
    // Parameters that fill templates are known: they are filled in here.
    let mut text = pretty(&Value::Object(body));
    for (name, value) in &variables {
        let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let inside = Value::from(plain).to_string();
        let inside = &inside[1..inside.len() - 1];
        text = text.replace(&format!("{{{{ {name} }}}}"), inside).replace(&format!("{{{{{name}}}}}"), inside);
    }
    format!(
        "curl \"${{OPENAI_BASE_URL:-https://api.openai.com/v1}}/{path}\" \\\n  -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n  -H 'Content-Type: application/json' \\\n  -d {}",
        quoted(&text)
    )
}

fn python(request: &Map<String, Value>, example: Option<&Map<String, Value>>) -> String {
    let (variables, mut body) = parted(request);
    let (messages, prompt) = (body.remove("messages"), body.remove("prompt"));
    // The openai package has arguments for what OpenAI's API takes; other fields go into `extra_body`.
    let known = |name: &str| name == "model" || api_parameter(name).is_some_and(|parameter| parameter.openai);
    let (own, extra): (Map<String, Value>, Map<String, Value>) = body.into_iter().partition(|(name, _)| known(name));
    let mut text = String::from(
        "# pip install openai jinja2; the key is read from OPENAI_API_KEY\nimport jinja2\nfrom openai import OpenAI\n\n",
    );
    text += &format!("VARIABLES = {}\n", literal(&Value::Object(variables), 0));
    match (&messages, &prompt) {
        (Some(messages), _) => text += &format!("MESSAGES = {}\n", literal(messages, 0)),
        (None, prompt) => text += &format!("PROMPT = {}\n", literal(prompt.as_ref().unwrap_or(&json!("")), 0)),
    }
    text += "\n\ndef fill(template, instance):\n    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)\n    return jinja.from_string(template).render(**VARIABLES, **instance)\n\n\ndef ask(instance):\n    client = OpenAI()\n";
    let call = if messages.is_some() { "client.chat.completions.create" } else { "client.completions.create" };
    text += &format!("    reply = {call}(\n");
    text += match messages.is_some() {
        true => {
            "        messages=[{**message, \"content\": fill(message[\"content\"], instance)} for message in MESSAGES],\n"
        }
        false => "        prompt=fill(PROMPT, instance),\n",
    };
    for (name, value) in &own {
        text += &format!("        {name}={},\n", literal(value, 8));
    }
    if !extra.is_empty() {
        text += &format!("        extra_body={},\n", literal(&Value::Object(extra), 8));
    }
    text += "    )\n";
    text += match messages.is_some() {
        true => "    return [choice.message.content for choice in reply.choices]\n",
        false => "    return [choice.text for choice in reply.choices]\n",
    };
    let example = example.map_or_else(Map::new, |fields| {
        let small =
            |(name, value): (&String, &Value)| (value.to_string().len() < 2000).then(|| (name.clone(), value.clone()));
        fields.iter().filter_map(small).collect()
    });
    text + &format!("\n\nprint(ask({}))\n", literal(&Value::Object(example), 0))
}

/// A value as Python writes it.
fn literal(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent + 4);
    let end = " ".repeat(indent);
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        // JSON's escapes are Python's, but for characters beyond the first plane, which stand as they are.
        Value::String(text) => Value::from(text.as_str()).to_string().replace('\u{7f}', "\\u007f"),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let items: Vec<String> = items.iter().map(|item| literal(item, indent)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Array(items) => {
            let items: String = items.iter().map(|item| format!("{pad}{},\n", literal(item, indent + 4))).collect();
            format!("[\n{items}{end}]")
        }
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let fields: String = fields
                .iter()
                .map(|(name, value)| {
                    format!("{pad}{}: {},\n", literal(&Value::from(name.as_str()), 0), literal(value, indent + 4))
                })
                .collect();
            format!("{{\n{fields}{end}}}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    #[test]
    fn a_shell_and_python_read_back_what_was_meant() {
        let nasty = "it's \"quoted\" $HOME `ls` \\ \n\u{1f600} {{ problem }} {{ trigger }}";
        let request = request(json!({
            "model": "m", "n": 3, "stop": ["\n"], "temperature": 0.5, "min_p": 0.1, "verbosity": "low",
            "messages": [{"role": "user", "content": nasty}], "variables": {"trigger": "Let's \"go\""},
        }));
        let curl = curl(&request);
        assert!(curl.contains("$OPENAI_API_KEY") && curl.contains("chat/completions"));
        // What sh makes of the last argument is the body.
        let shown = format!("printf %s {}", curl.split_once("-d ").unwrap().1);
        if let Ok(output) = std::process::Command::new("sh").args(["-c", &shown]).output() {
            let body: Value = serde_json::from_slice(&output.stdout).unwrap();
            let filled = nasty.replace("{{ trigger }}", "Let's \"go\"");
            assert_eq!(body["messages"][0]["content"], json!(filled));
            assert_eq!(body["n"], json!(3));
        }
        let python = python(&request, Some(&self::request(json!({"problem": "a'b\"c\u{0}"}))));
        assert!(
            python.contains("extra_body={") && python.contains("verbosity=\"low\"") && !python.contains("sk-"),
            "{python}"
        );
        let check = "import ast,sys; ast.parse(sys.stdin.read())";
        let child = std::process::Command::new("python3")
            .args(["-c", check])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn();
        match child {
            Err(_) => println!("skipped: there is no python3"),
            Ok(mut child) => {
                use std::io::Write as _;
                child.stdin.take().unwrap().write_all(python.as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "{python}\n{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}
