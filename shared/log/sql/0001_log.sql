-- The embedded log: topics, one head row per partition, and the records in commit order.
create table regulars_log.topics (
    topic_id int generated always as identity primary key,
    name text not null unique,
    partitions int not null check (partitions > 0),
    retention_days int check (retention_days > 0),
    compacted boolean not null
);

-- Every append of a partition updates its head row first and holds it until it commits: so offsets are dense and in
-- commit order. Half-filled pages keep those updates out of the index.
create table regulars_log.heads (
    topic_id int not null references regulars_log.topics,
    partition int not null,
    start_offset bigint not null default 0,
    next_offset bigint not null default 0,
    appended_at timestamptz not null default '-infinity',
    primary key (topic_id, partition)
) with (fillfactor = 50);

create table regulars_log.records (
    topic_id int not null,
    partition int not null,
    "offset" bigint not null,
    key bytea not null,
    value bytea,
    appended_at timestamptz not null,
    compacted boolean not null default false,
    primary key (topic_id, partition, "offset")
);

-- A new record of a compacted topic replaces the older ones of its key.
create index records_by_key on regulars_log.records (topic_id, partition, key) where compacted;

-- How far each group says it has read; for lag tools only.
create table regulars_log.reports (
    group_name text not null,
    topic_id int not null references regulars_log.topics,
    partition int not null,
    next_offset bigint not null,
    reported_at timestamptz not null,
    primary key (group_name, topic_id, partition)
);

create view regulars_log.lag as
select report.group_name, topic.name as topic, report.partition, report.next_offset,
    head.next_offset - report.next_offset as lag, report.reported_at
from regulars_log.reports as report
join regulars_log.topics as topic using (topic_id)
join regulars_log.heads as head using (topic_id, partition);
