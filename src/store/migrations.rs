//! The layout of a store's file, step by step.

/// The layout, step by step: `user_version` counts the steps a file has taken. Never change one that was released; add one.
pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE requests (
        id          INTEGER PRIMARY KEY,
        fingerprint BLOB NOT NULL UNIQUE,
        model       TEXT NOT NULL,
        source      TEXT NOT NULL,
        body        TEXT NOT NULL,
        created_at  INTEGER NOT NULL
    );
    CREATE TABLE purchases (
        id            INTEGER PRIMARY KEY,
        fingerprint   BLOB NOT NULL REFERENCES requests (fingerprint),
        first         INTEGER NOT NULL CHECK (first >= 0),
        samples       BLOB NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        model         TEXT,
        estimated     INTEGER NOT NULL,
        created_at    INTEGER NOT NULL,
        UNIQUE (fingerprint, first)
    );
    CREATE TABLE ledger (
        id          INTEGER PRIMARY KEY,
        scope       TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        worst       INTEGER NOT NULL CHECK (worst >= 0),
        settled     INTEGER CHECK (settled >= 0),
        state       TEXT NOT NULL CHECK (state IN ('open', 'settled', 'released', 'lost')),
        created_at  INTEGER NOT NULL,
        CHECK ((state = 'settled') = (settled IS NOT NULL))
    );
    CREATE INDEX ledger_by_scope ON ledger (scope);
    CREATE TABLE failures (
        id          INTEGER PRIMARY KEY,
        scope       TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        n           INTEGER NOT NULL,
        kind        TEXT NOT NULL,
        message     TEXT NOT NULL,
        created_at  INTEGER NOT NULL,
        UNIQUE (scope, fingerprint, n)
    );
", "
    -- 2: a purchase is found by its request's number, without an index of its own: `id` is the request's id times 2^20,
    -- plus the number of the purchase. Whatever is long stands last. `entry` is its place in the ledger, unknown of those
    -- kept by layout 1. The samples of the highest generation are the ones that runs find.
    CREATE TABLE purchases_2 (
        id            INTEGER PRIMARY KEY,
        generation    INTEGER NOT NULL,
        first         INTEGER NOT NULL CHECK (first >= 0),
        entry         INTEGER,
        created_at    INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        estimated     INTEGER NOT NULL,
        model         TEXT,
        extra         TEXT,
        samples       BLOB NOT NULL
    );
    INSERT INTO purchases_2
        SELECT (r.id << 20) + (SELECT count(*) FROM purchases q WHERE q.fingerprint = p.fingerprint AND q.first < p.first),
               0, p.first, NULL, p.created_at, p.prompt_tokens, p.cached_tokens, p.estimated, p.model, NULL, p.samples
        FROM requests r CROSS JOIN purchases p ON p.fingerprint = r.fingerprint;
    DROP TABLE purchases;
    ALTER TABLE purchases_2 RENAME TO purchases;
", "
    -- 3: batches. The text of a request stands once, however many lines ask for it, and only while a line is open.
    CREATE TABLE batches (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        intent     TEXT NOT NULL UNIQUE,
        scope      TEXT NOT NULL,
        endpoint   TEXT NOT NULL,
        model      TEXT NOT NULL,
        stage      TEXT NOT NULL,
        word       TEXT NOT NULL,
        remote     TEXT,
        notes      TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL
    );
    CREATE TABLE batch_requests (
        id          INTEGER PRIMARY KEY,
        fingerprint BLOB NOT NULL UNIQUE,
        model       TEXT NOT NULL,
        source      TEXT NOT NULL,
        body        TEXT NOT NULL
    );
    -- state: 0 open, 1 answered, 2 failed
    CREATE TABLE batch_lines (
        batch       INTEGER NOT NULL,
        number      INTEGER NOT NULL,
        fingerprint BLOB NOT NULL,
        n           INTEGER NOT NULL,
        entry       INTEGER NOT NULL,
        state       INTEGER NOT NULL,
        retryable   INTEGER,
        kind        TEXT,
        message     TEXT,
        PRIMARY KEY (batch, number)
    ) WITHOUT ROWID;
    CREATE INDEX batch_lines_by_request ON batch_lines (fingerprint, batch, number);
    CREATE TABLE batch_jobs (
        number     INTEGER PRIMARY KEY,
        id         TEXT NOT NULL UNIQUE,
        scope      TEXT NOT NULL,
        created_at INTEGER NOT NULL
    );
    CREATE TABLE batch_asks (
        job         INTEGER NOT NULL,
        place       INTEGER NOT NULL,
        id          TEXT NOT NULL,
        model       TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        n           INTEGER NOT NULL,
        PRIMARY KEY (job, place)
    ) WITHOUT ROWID;
"];
