//! Revisions and removals: what lets a reader ask only for what is new.
//! Keeps: revisions are in the order of commits, since the row that counts them is locked until the transaction ends; a removal
//! is known for [`REMOVED_SECS`], and whoever asks since an earlier one reads everything. Called by documents and records.

use sqlx::postgres::PgConnection;
use sqlx::{query, query_as};

/// How long a removal is known: readers ask every few seconds.
const REMOVED_SECS: f64 = 3_600.0;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Documents,
    Vips,
}

impl What {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Vips => "vips",
        }
    }
}

/// Where a table stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Position {
    pub(super) revision: u64,
    /// Later removals are all known.
    swept: u64,
}

impl Position {
    /// Can a reader who knows everything up to `since` be told only the rest? A later one has read from a database that was
    /// put back since.
    pub(super) fn knows(self, since: u64) -> bool {
        (self.swept..=self.revision).contains(&since)
    }
}

/// The next revision, for this transaction alone until it ends.
pub(super) async fn raise(transaction: &mut PgConnection, what: What) -> Result<u64, sqlx::Error> {
    const RAISE: &str =
        "UPDATE kuma_dns_revisions SET revision = revision + 1 WHERE what = $1 RETURNING revision";
    let (revision,): (i64,) = query_as(RAISE).bind(what.word()).fetch_one(transaction).await?;
    Ok(revision.cast_unsigned())
}

/// Where the table stands in this transaction.
pub(super) async fn position(transaction: &mut PgConnection, what: What) -> Result<Position, sqlx::Error> {
    let (revision, swept): (i64, i64) =
        query_as("SELECT revision, swept FROM kuma_dns_revisions WHERE what = $1")
            .bind(what.word())
            .fetch_one(transaction)
            .await?;
    Ok(Position { revision: revision.cast_unsigned(), swept: swept.cast_unsigned() })
}

/// The last revisions of both, as anybody sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Last {
    pub(super) documents: u64,
    pub(super) vips: u64,
}

/// Asks for the last revisions.
pub(super) async fn last(connection: &mut PgConnection) -> Result<Last, sqlx::Error> {
    let rows: Vec<(String, i64)> =
        query_as("SELECT what, revision FROM kuma_dns_revisions").fetch_all(connection).await?;
    let of = |what: What| {
        let found = rows.iter().find(|(word, _)| word == what.word());
        found.map_or(0, |(_, revision)| revision.cast_unsigned())
    };
    Ok(Last { documents: of(What::Documents), vips: of(What::Vips) })
}

/// Notes what this transaction removes, and forgets what was noted long ago.
pub(super) async fn note_removed(
    transaction: &mut PgConnection,
    what: What,
    revision: u64,
    keys: &[String],
) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    query(
        "INSERT INTO kuma_dns_removed (what, key, revision) SELECT $1, key, $2 FROM unnest($3::text[]) AS key
         ON CONFLICT (what, key) DO UPDATE SET revision = excluded.revision, at = excluded.at",
    )
    .bind(what.word())
    .bind(revision.cast_signed())
    .bind(keys)
    .execute(&mut *transaction)
    .await?;
    query(
        "WITH gone AS (
             DELETE FROM kuma_dns_removed WHERE what = $1 AND at < clock_timestamp() - make_interval(secs => $2)
             RETURNING revision
         )
         UPDATE kuma_dns_revisions AS r SET swept = greatest(r.swept, (SELECT max(revision) FROM gone))
         WHERE what = $1 AND EXISTS (SELECT 1 FROM gone)",
    )
    .bind(what.word())
    .bind(REMOVED_SECS)
    .execute(transaction)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_told_only_the_rest_when_all_of_it_is_known() {
        let position = Position { revision: 9, swept: 4 };
        for (since, known) in [(3, false), (4, true), (9, true), (10, false)] {
            assert_eq!(position.knows(since), known, "since {since}");
        }
    }
}
