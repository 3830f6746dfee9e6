//! One turn of a conversation, and how it is read where files give it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diagnostic::suggestion;

/// Who may speak in a conversation.
pub const ROLES: [&str; 5] = ["system", "user", "assistant", "developer", "tool"];

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, ...
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// Reads a message: a role, and a text or parts that are texts, which are one text then. What cannot be said in a
    /// request of farthing's is refused, never left out.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(value: &Value) -> Result<Message, String> {
        let wrong = |what: &str| format!("{what}: {}", shown(value));
        let Value::Object(item) = value else { return Err(wrong("a message has a `role` and a `content`")) };
        let role = item.get("role").and_then(Value::as_str).ok_or_else(|| wrong("this message has no `role`"))?;
        // Gemini's word for it.
        let role = if role == "model" { "assistant" } else { role };
        if !ROLES.contains(&role) {
            return Err(wrong(&format!("`{role}` is no role; {}", suggestion(role, ROLES))));
        }
        let media = || {
            let what = "only texts can be asked here, no images or other media, and this message holds something else";
            wrong(what)
        };
        let content = match item.get("content").or_else(|| item.get("parts")) {
            None | Some(Value::Null) => return Err(wrong("this message has no `content`")),
            Some(Value::Array(parts)) => parts.iter().map(piece).collect::<Option<String>>().ok_or_else(media)?,
            Some(one) => piece(one).ok_or_else(media)?,
        };
        Ok(Message { role: role.to_owned(), content })
    }
}

/// The text that a part of a content is, if it is one and nothing beside it.
fn piece(part: &Value) -> Option<String> {
    match part {
        Value::String(text) => Some(text.clone()),
        Value::Object(part) if part.keys().all(|key| key == "type" || key == "text") => {
            part.get("text").and_then(Value::as_str).map(str::to_owned)
        }
        _ => None,
    }
}

/// A value in a message, cut where it is long.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_a_message_is_read_and_all_else_is_refused() {
        let read = |value: Value| Message::read(&value).map(|message| format!("{}: {}", message.role, message.content));
        assert_eq!(read(json!({"role": "user", "content": "a"})), Ok("user: a".into()));
        assert_eq!(
            read(json!({"role": "model", "parts": ["a", {"type": "text", "text": "b"}]})),
            Ok("assistant: ab".into())
        );
        for (value, says) in [
            (json!("a"), "a `role` and a `content`"),
            (json!({"content": "a"}), "no `role`"),
            (json!({"role": "usr", "content": "a"}), "`usr` is no role; did you mean `user`?"),
            (json!({"role": "user"}), "no `content`"),
            (json!({"role": "user", "content": 1}), "only texts"),
            (json!({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}), "only texts"),
            (json!({"role": "user", "content": [{"text": "a", "image": "x"}]}), "only texts"),
        ] {
            assert!(read(value.clone()).unwrap_err().contains(says), "{value}");
        }
    }
}
