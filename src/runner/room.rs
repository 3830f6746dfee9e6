//! Why a request does not fit the budget, for people: what its worst case is made of, and what to do about it.

use super::Service;
use crate::money::Usd;
use crate::provider::Request;
use crate::space::parameter::OUTPUT_LIMITS;

impl Service {
    /// Why this request was not sent, `worst` being what it may cost.
    pub fn no_room(&self, request: &Request, worst: Usd) -> String {
        if self.foretell(request).is_some() {
            return format!("it costs ${worst}, which does not fit what is left of the budget");
        }
        let set = OUTPUT_LIMITS.iter().find(|name| request.params.contains_key(**name));
        let tokens = |limit: u64| match request.n {
            1 => format!("{limit} tokens"),
            n => format!("{n} completions of {limit} tokens"),
        };
        let (made_of, advice) = match (set, self.output_limit(request)) {
            (None, Some(limit)) => {
                (format!(" (no max_tokens: {})", tokens(limit)), "set max_tokens or raise the budget")
            }
            (Some(name), Some(limit)) => (format!(" ({name}: {})", tokens(limit)), "lower it or raise the budget"),
            (_, None) => (String::new(), "set max_tokens or raise the budget"),
        };
        format!("its worst case is ${worst}{made_of}, which does not fit what is left of the budget: {advice}")
    }
}
