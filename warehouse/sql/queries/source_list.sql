-- Purpose: where rows come from, with a link to read it.
-- Grain: one source that has rows.
-- Parameters: none.
SELECT
    runs.source_id,
    any_value(sources.title) AS title,
    any_value(sources.kind) AS kind,
    any_value(sources.authors) AS authors,
    any_value(sources.published_at) AS published_at,
    any_value(sources.locator) AS locator,
    any_value(sources.url) AS url,
    any_value(sources.note) AS note,
    string_agg(DISTINCT runs.source_kind, ', ' ORDER BY runs.source_kind) AS source_kinds,
    count(*) AS num_runs,
    count(*) FILTER (WHERE runs.status <> 'ok') AS num_failed,
    count(*) FILTER (WHERE runs.is_excluded) AS num_excluded,
    max(runs.collected_at) AS last_collected_at
FROM runs
LEFT JOIN sources USING (source_id)
GROUP BY runs.source_id
ORDER BY num_runs DESC, runs.source_id
