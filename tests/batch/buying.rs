//! What is bought, in which batches, at which price.

use std::time::Duration;

use farthing::Usd;
use farthing::backend::{Endpoint, Endpoints};
use farthing::batch::{self, AnswerOutcome, Ask, Batches, Options as Buying, Phase};
use farthing::client::{Client, Create};
use farthing::diagnostic::Source;
use farthing::serve::mock::{BatchOptions, Options};
use farthing::store::{MemoryStore, SharedStore};

use crate::support::{server, usd};
use crate::{ask, buying, endpoints, files_left, many, quick, run, samples, whole};

#[test]
fn answers_come_under_the_callers_ids_and_are_bought_once() {
    let server = quick(|_| {});
    let endpoints = endpoints(&server, "openai", "");
    let store: SharedStore = MemoryStore::new();
    let batches = Batches::with_options(endpoints.clone(), store.clone(), buying());
    let mut asks = many(9);
    // The same three times, once with more completions; sent once, for the most that is wanted.
    asks.extend([ask("twice", "What is 1 + 1?", 1), ask("thrice", "What is 1 + 1?", 3)]);
    run(async {
        let report = batch::invoke(&batches, asks.clone()).await.unwrap();
        whole(&report, &server, 9);
        let ids: Vec<&str> = report.answers.iter().map(|answer| answer.id.as_str()).collect();
        assert_eq!(ids, asks.iter().map(|ask| ask.id.as_str()).collect::<Vec<_>>());
        let [one, twice, thrice] = [1, 9, 10].map(|at| samples(&report.answers[at]));
        assert_eq!((one, twice, thrice.len()), (&thrice[..1], &thrice[..1], 3));
        assert_eq!((report.status.batches.len(), report.status.batches[0].state.phase), (1, Phase::Completed));
        assert_eq!(report.status.batches[0].state.word, "completed");
        assert_eq!(files_left(&server).await, 0, "uploaded and result files are deleted");
        let bill = server.ledger().billed;

        // The same again costs nothing and says the same; so does whoever asks one by one.
        let again = batch::invoke(&batches, asks.clone()).await.unwrap();
        assert_eq!(again.answers, report.answers);
        let client = Client::builder().endpoints(endpoints).shared_store(store.clone()).build().unwrap();
        let create = Create::chat("mock-small").user("What is 1 + 1?").temperature(0.7).max_tokens(40).n(3);
        let done = client.create(&create).await.unwrap();
        assert!(done.cached && done.samples == thrice);
        assert_eq!((server.ledger().billed, server.ledger().batch_lines, server.ledger().requests), (bill, 9, 0));

        // Half the price: an ordinary request of the same kind costs twice as much.
        let create = Create::chat("mock-small").user("What is 1 + 1?").temperature(0.7).max_tokens(40).fresh();
        let full = client.create(&create).await.unwrap();
        let half = farthing::price::Price::flat(Usd::from_pico(125_000), Usd::from_pico(375_000));
        assert_eq!(
            full.cost,
            half.prompt(full.prompt_tokens, 0).times(2) + half.output.times(2 * full.completion_tokens)
        );

        // More completions of what is there: only those that are missing.
        let more = batch::invoke(&batches, vec![ask("five", "What is 1 + 1?", 6)]).await.unwrap();
        assert_eq!(samples(&more.answers[0]).len(), 6);
        assert_eq!(samples(&more.answers[0])[..3], *thrice);
        assert_eq!(server.ledger().batch_lines, 10);
    });
}

#[test]
fn batches_are_cut_by_the_limits_and_by_model() {
    let server = quick(|_| {});
    let limits = "batch = { max_requests = 4, max_bytes = 2000 }";
    let batches = Batches::with_options(endpoints(&server, "openai", limits), MemoryStore::new(), buying());
    let mut asks = many(10);
    asks[3].request.model = "mock-large".into();
    // Two of these do not fit 2,000 bytes.
    asks.extend(["a", "b"].map(|name| ask(name, &name.repeat(900), 1)));
    run(async {
        let report = batch::invoke(&batches, asks).await.unwrap();
        whole(&report, &server, 12);
        let mut sizes: Vec<(String, u64)> =
            report.status.batches.iter().map(|batch| (batch.model.clone(), batch.lines)).collect();
        sizes.sort();
        assert_eq!(sizes.iter().filter(|(model, _)| model == "mock-large").count(), 1);
        assert!(sizes.iter().all(|(_, lines)| *lines <= 4) && sizes.len() >= 5, "{sizes:?}");
    });
}

#[test]
fn anthropics_batches_have_one_line_a_completion() {
    let server = quick(|_| {});
    let batches = Batches::with_options(endpoints(&server, "anthropic", ""), MemoryStore::new(), buying());
    run(async {
        let asks = vec![ask("a", "What is 2 + 3?", 3), ask("b", "What is 4 + 4?", 1), ask("c", "What is 2 + 3?", 2)];
        let report = batch::invoke(&batches, asks.clone()).await.unwrap();
        whole(&report, &server, 4);
        assert_eq!(samples(&report.answers[0])[..2], *samples(&report.answers[2]));
        assert_eq!(report.status.batches[0].state, batch::State { phase: Phase::Completed, word: "ended".into() });
        let left = reqwest::Client::new().get(format!("{}/messages/batches", server.url()));
        let left = left
            .header("x-api-key", "test-key-0123")
            .header("anthropic-version", "2023-06-01")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(left.contains("\"data\":[]"), "the batch and its results are deleted: {left}");
        assert_eq!(batch::invoke(&batches, asks).await.unwrap().answers, report.answers);
        assert_eq!(server.ledger().batch_lines, 4);
    });
}

#[test]
fn azures_batches_are_at_its_own_addresses() {
    for version in ["2024-10-21", "v1"] {
        let server = quick(|_| {});
        let more = format!("api_version = \"{version}\"");
        let batches = Batches::with_options(endpoints(&server, "azure", &more), MemoryStore::new(), buying());
        let report = run(batch::invoke(&batches, many(3))).unwrap_or_else(|error| panic!("{version}: {error}"));
        whole(&report, &server, 3);
    }
}

#[test]
fn a_full_queue_is_waited_for_and_too_large_batches_are_split() {
    // Known beforehand: batches are made to fit, and the next goes out when there is room.
    let server = quick(|batches| batches.enqueued_tokens = Some(1200));
    let text = "batch = { enqueued_tokens = 1200 }";
    let batches = Batches::with_options(endpoints(&server, "openai", text), MemoryStore::new(), buying());
    let report = run(batch::invoke(&batches, many(40))).unwrap();
    whole(&report, &server, 40);
    assert!(report.status.batches.len() > 2, "{:?}", report.status.batches);
    // Not known: the provider says so when it is too late, and what it says is learnt.
    let server = quick(|batches| batches.enqueued_tokens = Some(300));
    let endpoints = endpoints(&server, "openai", "batch = { max_requests = 20 }");
    let batches = Batches::with_options(endpoints, MemoryStore::new(), buying());
    let report = run(batch::invoke(&batches, many(40))).unwrap();
    whole(&report, &server, 40);
    // What was refused is cut to what fits, not halved and halved.
    assert!((3..=4).contains(&report.status.batches.len()), "{:?}", report.status.batches);
}

#[test]
fn the_budget_holds_over_everything_that_is_out() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let store: SharedStore = MemoryStore::new();
    let open = |budget: &str| {
        let options = Buying { budget: Some(usd(budget)), ..buying() };
        Batches::with_options(endpoints(&server, "openai", ""), store.clone(), options)
    };
    run(async {
        let estimate = open("1").estimate(&many(10)).unwrap();
        assert_eq!((estimate.requests, estimate.to_send, estimate.completions), (10, 10, 10));
        assert_eq!(estimate.worst_without_batches_usd, estimate.worst_usd.times(2));
        // Room for some of them, at worst.
        let budget = Usd::from_pico(estimate.worst_usd.pico() / 2).to_string();
        let batches = open(&budget);
        let created = batch::create(&batches, many(10)).await.unwrap();
        assert!((4..7).contains(&created.left.len()), "{created:?}");
        assert_eq!(created.left.last().map(String::as_str), Some("id-9"), "what is cut is cut from the end");
        let status = batch::status(&batches, &created.job).await.unwrap();
        assert_eq!(status.unsent, created.left.len() as u64);
        assert!(status.held_usd <= usd(&budget) && status.held_usd > Usd::ZERO);
        // Another process has no more room while that is out.
        assert_eq!(batch::create(&open(&budget), many(10)).await.unwrap().new_batches, 0);
        // What came back cost less than its worst case, so there is room for more.
        server.advance(Duration::from_secs(2000));
        batch::status(&batches, &created.job).await.unwrap();
        let more = batch::create(&open(&budget), many(10)).await.unwrap();
        assert!(more.new_batches == 1 && more.left.len() < created.left.len(), "{more:?}");
        server.advance(Duration::from_secs(2000));
        let status = batch::status(&batches, &created.job).await.unwrap();
        assert_eq!((status.spent_usd, status.held_usd), (server.ledger().billed, Usd::ZERO));
        assert!(server.ledger().billed <= usd(&budget));
    });
}

/// A budget of what the estimate says is enough, where counted tokens are fewer than bytes; a little less is not.
#[test]
fn the_estimate_is_what_is_reserved() {
    let batches = BatchOptions { duration: Duration::from_secs(1000), ..BatchOptions::default() };
    let server = server(Options { models: Default::default(), batches, ..Options::default() });
    // As if it were OpenAI's own address, whose bills its tokenizer tells beforehand.
    let mut endpoints = Endpoints::standard();
    endpoints.list = vec![Endpoint { vendor: true, ..Endpoint::at("here", &server.url()) }];
    let text = "international ".repeat(40);
    let mut asks: Vec<Ask> = (0..6).map(|at| ask(&format!("id-{at}"), &format!("{at} {text}"), 1)).collect();
    asks.iter_mut().for_each(|ask| ask.request.model = "gpt-4o".into());
    run(async {
        let job = |budget: Usd| {
            let options = Buying { budget: Some(budget), ..buying() };
            Batches::with_options(endpoints.clone(), MemoryStore::new(), options)
        };
        let bound = job(Usd::MAX).estimate(&asks).unwrap().worst_usd;
        let created = batch::create(&job(bound), asks.clone()).await.unwrap();
        assert_eq!(created.left, Vec::<String>::new());
        let created = batch::create(&job(bound - Usd::from_pico(1)), asks.clone()).await.unwrap();
        assert_eq!(created.left, ["id-5"]);
    });
}

#[test]
fn two_jobs_that_ask_the_same_buy_it_once() {
    let server = quick(|batches| batches.duration = Duration::from_secs(1000));
    let store: SharedStore = MemoryStore::new();
    let batches = Batches::with_options(endpoints(&server, "openai", ""), store, buying());
    run(async {
        let first = batch::create(&batches, many(4)).await.unwrap();
        let mut asks = many(6);
        asks.iter_mut().for_each(|ask| ask.id.push('x'));
        let second = batch::create(&batches, asks).await.unwrap();
        assert!(first.job != second.job && (first.new_batches, second.new_batches) == (1, 1));
        let status = batch::status(&batches, &second.job).await.unwrap();
        assert_eq!(status.batches.iter().map(|batch| batch.lines).collect::<Vec<_>>(), [4, 2]);
        server.advance(Duration::from_secs(2000));
        let answers = batch::retrieve(&batches, &second.job).await.unwrap();
        answers.iter().for_each(|answer| assert!(!samples(answer).is_empty()));
        assert_eq!((answers.len(), server.ledger().batch_lines), (6, 6));
    });
}

#[test]
fn files_stay_where_they_are_wanted_and_prices_are_as_written() {
    let server = quick(|_| {});
    let keep = Buying { keep_files: true, ..buying() };
    let text = format!(
        "[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\n[models.mock-small]\nbatch_enqueued_tokens = 500\n\
         price = {{ input = 0.25, output = 0.75, batch_input = 0.1, batch_output = 0.2 }}\n",
        server.url()
    );
    let endpoints = Endpoints::read(&Source::new("farthing.toml", text), ".".as_ref()).unwrap();
    let batches = Batches::with_options(endpoints, MemoryStore::new(), keep);
    run(async {
        let report = batch::invoke(&batches, many(8)).await.unwrap();
        let answered = report.answers.iter().map(|answer| match &answer.outcome {
            AnswerOutcome::Answered { samples, prompt_tokens } => (*prompt_tokens, samples[0].completion_tokens),
            other => panic!("{other:?}"),
        });
        let price = farthing::price::Price::flat(Usd::from_pico(100_000), Usd::from_pico(200_000));
        let bill: Usd = answered.map(|(input, output)| price.prompt(input, 0) + price.output.times(output)).sum();
        assert_eq!(report.status.spent_usd, bill);
        // Two of these requests fill the model's queue, so they went out in parts; a file in and a file out for each.
        let parts = report.status.batches.len() as u64;
        assert!(parts > 1, "{:?}", report.status.batches);
        assert_eq!(files_left(&server).await, 2 * parts);
    });
}
