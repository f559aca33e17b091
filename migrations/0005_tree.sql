-- The trees over the logs, their checkpoints and keys: written by `store/audit_tree.rs` and its
-- neighbours. The installation's own log has the number 0; those of nodes are in `audit_log`.

-- Tiles of 256 hashes (C2SP tlog-tiles), full or growing, the hashes one after the other.
create table audit_tile (
    log bigint not null,
    level bigint not null,
    place bigint not null,
    hashes bytea not null,
    constraint audit_tile_key primary key (log, level, place)
);

-- Signed checkpoints. The last one of a log says how far its tree is built.
create table audit_checkpoint (
    log bigint not null,
    size bigint not null,
    root bytea not null,
    time bigint not null,
    note text not null,
    constraint audit_checkpoint_key primary key (log, size)
);

-- Keys that sign checkpoints, sealed under the key-encryption key. A row never changes.
create table audit_log_signer (
    log bigint not null,
    public_key bytea not null,
    created_at bigint not null,
    certificate text not null,
    sealed bytea not null,
    constraint audit_log_signer_key primary key (log, public_key)
);

-- The leaves of the installation log, which names all logs.
create table installation_leaf (
    seq bigint not null,
    leaf text not null,
    constraint installation_leaf_key primary key (seq)
);

-- How far each witness of a node has a log.
create table audit_witness (
    node text not null,
    witness text not null,
    log bigint not null,
    size bigint not null,
    delivered_at bigint not null,
    constraint audit_witness_key primary key (node, witness, log)
);

-- How far a log's old events are pruned: every one below has its leaf and nothing else.
alter table audit_log add column pruned_to bigint not null default 0;

insert into counter (name, value) values ('installation_log', 0);
