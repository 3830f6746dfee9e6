//! Google's Gemini API in its native form, which keeps several candidates, stop sequences, and thoughts counted apart.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::provider::openai::no_text;
use crate::provider::read::{self, Count, Draft, Loose, Objects, Usage, Word};
use crate::provider::wire::{self, Call, Choice, Format, Item, Object, Place, Wire, escaped, inexpressible, nowhere};
use crate::provider::{Failure, FailureKind, FinishReason, Input, Refusal, Request, Response, refusal};

/// Asks Google.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gemini;

/// Most candidates of one call.
const CANDIDATES: u32 = 8;

const NONE: Place = Place::Nowhere("the Gemini API has no such thing");

const PLACES: &[(&str, Place)] = &[
    ("temperature", Place::At("generationConfig.temperature")),
    ("top_p", Place::At("generationConfig.topP")),
    ("stop", Place::At("generationConfig.stopSequences")),
    ("max_tokens", Place::At("generationConfig.maxOutputTokens")),
    ("max_completion_tokens", Place::At("generationConfig.maxOutputTokens")),
    ("presence_penalty", Place::At("generationConfig.presencePenalty")),
    ("frequency_penalty", Place::At("generationConfig.frequencyPenalty")),
    ("logit_bias", NONE),
    ("seed", Place::At("generationConfig.seed")),
    ("logprobs", Place::At("generationConfig.responseLogprobs")),
    ("top_logprobs", Place::At("generationConfig.logprobs")),
    ("response_format", Place::At("generationConfig.responseJsonSchema")),
    ("tools", Place::At("tools")),
    ("tool_choice", Place::At("toolConfig.functionCallingConfig.mode")),
    ("parallel_tool_calls", NONE),
    ("reasoning_effort", Place::At("generationConfig.thinkingConfig")),
    ("user", NONE),
];

/// Fields of generationConfig that the OpenAI API has no name for, in this program's spelling and in Google's.
const CONFIG: &[(&str, &str)] = &[
    ("top_k", "topK"),
    ("topK", "topK"),
    ("thinking_config", "thinkingConfig"),
    ("thinkingConfig", "thinkingConfig"),
    ("response_mime_type", "responseMimeType"),
    ("responseMimeType", "responseMimeType"),
    ("response_schema", "responseSchema"),
    ("responseSchema", "responseSchema"),
    ("media_resolution", "mediaResolution"),
    ("mediaResolution", "mediaResolution"),
];

/// Fields that the OpenAI API has no name for.
pub fn fields() -> impl Iterator<Item = &'static str> {
    CONFIG.iter().map(|(name, _)| *name).chain(["safety_settings", "safetySettings"])
}

fn version(model: &str) -> Option<(u32, u32)> {
    let model = model.rsplit('/').next()?.strip_prefix("gemini-")?;
    let mut numbers = model.split('-').next()?.split('.').map(|piece| piece.parse().ok());
    Some((numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

impl Gemini {
    /// Gemini 3 takes a level of thinking, 2.5 a budget of tokens (Google's page on thinking; the budgets are those of its
    /// OpenAI-compatible address).
    fn think<'a>(&self, config: &mut Object<'a>, model: &str, effort: &'a Value) -> Result<(), Failure> {
        let wrong = |why: &str| nowhere(self, "reasoning_effort", why);
        let word = effort.as_str().filter(|word| matches!(*word, "none" | "minimal" | "low" | "medium" | "high"));
        let word = word.ok_or_else(|| wrong("it is none, minimal, low, medium or high there"))?;
        match version(model) {
            Some(version) if version < (2, 5) => return Err(wrong("this model does not think")),
            Some((2, _)) => {
                let budget = match word {
                    "none" => 0,
                    "minimal" | "low" => 1024,
                    "medium" => 8192,
                    _ => 24_576,
                };
                config.object("thinkingConfig").put("thinkingBudget", Value::from(budget));
            }
            _ if word == "none" => return Err(wrong("this model always thinks; the least is minimal")),
            _ => config.object("thinkingConfig").put("thinkingLevel", word),
        }
        Ok(())
    }

    fn turns<'a>(&self, request: &'a Request) -> Result<(Vec<Item<'a>>, Vec<Item<'a>>), Failure> {
        let Input::Messages(messages) = &request.input else { return Err(no_text(self)) };
        let part = |text: &'a str| {
            let mut part = Object::new();
            part.put("text", text);
            Item::Object(part)
        };
        let (mut system, mut turns) = (Vec::new(), Vec::new());
        for message in messages {
            let role = match message.role.as_str() {
                "system" | "developer" if turns.is_empty() => {
                    system.push(part(&message.content));
                    continue;
                }
                "system" | "developer" => {
                    return Err(inexpressible("gemini takes system messages only before all others"));
                }
                "user" => "user",
                "assistant" | "model" => "model",
                role => return Err(inexpressible(format!("gemini knows no messages of the role `{role}`"))),
            };
            let mut turn = Object::new();
            turn.put("role", role);
            turn.put("parts", vec![part(&message.content)]);
            turns.push(Item::Object(turn));
        }
        match turns.is_empty() {
            true => Err(inexpressible("gemini wants at least one message of the user")),
            false => Ok((system, turns)),
        }
    }
}

impl Wire for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn places(&self, _request: &Request) -> &'static [(&'static str, Place)] {
        PLACES
    }

    fn encode(&self, request: &Request, n: u32) -> Result<Call, Failure> {
        let (system, turns) = self.turns(request)?;
        let mut body = Object::new();
        if !system.is_empty() {
            body.object("systemInstruction").put("parts", system);
        }
        body.put("contents", turns);
        for (name, value) in wire::sent(self, request)? {
            match name {
                "temperature" | "seed" => body.object("generationConfig").put(name, value),
                "top_p" => body.object("generationConfig").put("topP", value),
                "stop" => body.object("generationConfig").put("stopSequences", wire::stops(value)),
                "max_tokens" | "max_completion_tokens" => body.object("generationConfig").put("maxOutputTokens", value),
                "presence_penalty" => body.object("generationConfig").put("presencePenalty", value),
                "frequency_penalty" => body.object("generationConfig").put("frequencyPenalty", value),
                "logprobs" => body.object("generationConfig").put("responseLogprobs", value),
                "top_logprobs" => body.object("generationConfig").put("logprobs", value),
                "reasoning_effort" => self.think(body.object("generationConfig"), &request.model, value)?,
                "generationConfig" | "generation_config" => {
                    if !body.object("generationConfig").put_all(value) {
                        return Err(nowhere(self, name, "it must be a table"));
                    }
                }
                "response_format" => {
                    let format = wire::format(self, value)?;
                    let config = body.object("generationConfig");
                    match format {
                        Format::Text => {}
                        Format::Json => config.put("responseMimeType", "application/json"),
                        Format::Schema(schema, _) => {
                            config.put("responseMimeType", "application/json");
                            config.put("responseJsonSchema", schema);
                        }
                    }
                }
                "tools" => {
                    let mut tools = Object::new();
                    tools.put("functionDeclarations", declarations(self, value)?);
                    body.put("tools", vec![Item::Object(tools)]);
                }
                "tool_choice" => {
                    let calling = body.object("toolConfig").object("functionCallingConfig");
                    match wire::choice(self, value)? {
                        Choice::Auto => calling.put("mode", "AUTO"),
                        Choice::None => calling.put("mode", "NONE"),
                        Choice::Required => calling.put("mode", "ANY"),
                        Choice::Named(name) => {
                            calling.put("mode", "ANY");
                            calling.put("allowedFunctionNames", vec![Item::Text(name)]);
                        }
                    }
                }
                _ => match CONFIG.iter().find(|(known, _)| *known == name) {
                    Some((_, theirs)) => body.object("generationConfig").put(*theirs, value),
                    None => body.put(name, value),
                },
            }
        }
        if n > 1 && self.several(request) {
            body.object("generationConfig").put("candidateCount", Value::from(n.min(CANDIDATES)));
        }
        let model = request.model.strip_prefix("models/").unwrap_or(&request.model);
        // `tunedModels/NAME` is a path of its own.
        let path = match model.split_once('/') {
            Some((folder, name)) => format!("/{}/{}:generateContent", escaped(folder), escaped(name)),
            None => format!("/models/{}:generateContent", escaped(model)),
        };
        Ok(Call::post(path, body.bytes()))
    }

    fn decode(&self, request: &Request, n: u32, body: &[u8]) -> Result<Response, Refusal> {
        decode(request, n, body)
    }

    /// Models up to generation 2 give up to eight candidates; those of generation 3 answer "Multiple candidates is not
    /// enabled for this model" (googleapis/js-genai issue 1609, 2026-05).
    fn several(&self, request: &Request) -> bool {
        version(&request.model).is_some_and(|(major, _)| major <= 2)
    }

    fn key_header(&self) -> &'static str {
        "x-goog-api-key"
    }

    fn listing(&self) -> Call {
        Call::get("/models")
    }
}

fn declarations<'a>(wire: &dyn Wire, value: &'a Value) -> Result<Vec<Item<'a>>, Failure> {
    let declaration = |function: wire::Function<'a>| {
        let mut declaration = Object::new();
        declaration.put("name", function.name);
        if let Some(description) = function.description {
            declaration.put("description", description);
        }
        if let Some(parameters) = function.parameters {
            declaration.put("parametersJsonSchema", parameters);
        }
        Item::Object(declaration)
    };
    Ok(wire::functions(wire, value)?.into_iter().map(declaration).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(borrow, default)]
    candidates: Objects<Candidate<'a>>,
    #[serde(borrow, default)]
    prompt_feedback: Loose<Feedback<'a>>,
    #[serde(default)]
    usage_metadata: Loose<Billed>,
    #[serde(borrow, default)]
    model_version: Word<'a>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback<'a> {
    #[serde(borrow, default)]
    block_reason: Word<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(default)]
    index: Count,
    #[serde(borrow, default)]
    content: Loose<Content<'a>>,
    #[serde(borrow, default)]
    finish_reason: Word<'a>,
    #[serde(default)]
    logprobs_result: Option<Value>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    parts: Objects<Part<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Word<'a>,
    #[serde(default)]
    thought: Option<Value>,
    #[serde(borrow, default)]
    function_call: Loose<Called<'a>>,
}

#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow, default)]
    id: Word<'a>,
    #[serde(borrow, default)]
    name: Word<'a>,
    #[serde(default)]
    args: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Billed {
    #[serde(default)]
    prompt_token_count: Count,
    #[serde(default)]
    tool_use_prompt_token_count: Count,
    #[serde(default)]
    cached_content_token_count: Count,
    #[serde(default)]
    candidates_token_count: Count,
    #[serde(default)]
    thoughts_token_count: Count,
}

fn decode(request: &Request, n: u32, body: &[u8]) -> Result<Response, Refusal> {
    let mut spare = Vec::new();
    let reply: Reply = read::json(body, &mut spare)?;
    let mut candidates = reply.candidates.0;
    if let (true, Some(error)) = (candidates.is_empty(), reply.error.filter(|error| !error.is_null())) {
        return Err(refusal::within(&error, body));
    }
    candidates.sort_by_key(|candidate| candidate.index.0.unwrap_or(0));
    let mut drafts: Vec<Draft> = candidates.into_iter().map(draft).collect();
    let billed = reply.usage_metadata.0.unwrap_or_default();
    let thoughts = billed.thoughts_token_count.0.unwrap_or(0);
    // A candidate that only thought has no count of its own.
    let written = billed.candidates_token_count.0.or((thoughts > 0).then_some(0));
    let mut usage = Usage {
        input: billed.prompt_token_count.0.map(|count| count + billed.tool_use_prompt_token_count.0.unwrap_or(0)),
        cached: billed.cached_content_token_count.0.unwrap_or(0),
        written: 0,
        output: written.map(|count| count + thoughts),
        reasoning: thoughts,
    };
    if let (true, Some(reason)) = (drafts.is_empty(), reply.prompt_feedback.0.and_then(|it| it.block_reason.0)) {
        // The prompt was blocked: nothing was written, and no more is billed than the usage says.
        if usage.input.is_none_or(|count| count == 0) {
            let failure = Failure::new(FailureKind::ContentFilter, format!("the prompt was blocked: {reason}"));
            return Err(Refusal::of(failure, false));
        }
        usage.output = usage.output.or(Some(0));
        drafts.extend((0..n.max(1)).map(|_| Draft::new("", FinishReason::CONTENT_FILTER)));
    }
    let asked = request.model.strip_prefix("models/").unwrap_or(&request.model);
    let model = reply.model_version.text().filter(|model| *model != asked);
    read::settle(request, n, drafts, usage, model, false)
}

fn draft(candidate: Candidate) -> Draft {
    let finish = match candidate.finish_reason.text() {
        Some("STOP") => FinishReason::STOP,
        Some("MAX_TOKENS") => FinishReason::LENGTH,
        Some("SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY") => {
            FinishReason::CONTENT_FILTER
        }
        Some(other) => read::finish(Some(&other.to_lowercase())),
        None => FinishReason::UNKNOWN,
    };
    let mut draft = Draft::new("", finish);
    let mut calls = Vec::new();
    for part in candidate.content.0.map(|content| content.parts.0).unwrap_or_default() {
        if let Some(call) = part.function_call.0 {
            let id = call.id.0.map_or_else(|| format!("call_{}", calls.len()), |id| id.into_owned());
            let arguments = call.args.filter(|args| !args.is_null()).unwrap_or_else(|| json!({})).to_string();
            let name = call.name.text().unwrap_or_default();
            calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
        }
        let text = part.text.text().unwrap_or_default();
        match part.thought {
            Some(Value::Bool(true)) => draft.thought += text.len(),
            _ => draft.text.push_str(text),
        }
    }
    if !calls.is_empty() {
        draft.tool_calls = Some(Value::Array(calls));
        if draft.finish_reason == FinishReason::STOP {
            draft.finish_reason = read::finish(Some("tool_calls"));
        }
    }
    draft.logprobs = candidate.logprobs_result.filter(|logprobs| !logprobs.is_null());
    draft
}
