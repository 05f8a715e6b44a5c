#!/bin/sh
# What compose.yaml asks of the official image: POSTGRES_PASSWORD and POSTGRES_DB, made once in the volume.
set -eu
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
cd /tmp
export PGDATA=/var/lib/postgresql/data
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install -d -o postgres -m 700 "$PGDATA"
    printf %s "$POSTGRES_PASSWORD" >password
    chown postgres password
    as_postgres initdb -U postgres --pwfile=password --auth-local=trust --auth-host=scram-sha-256
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    as_postgres pg_ctl -w start -o '-c listen_addresses='
    as_postgres createdb -U postgres "$POSTGRES_DB"
    as_postgres pg_ctl -w stop
fi
exec setpriv --reuid postgres --regid postgres --clear-groups postgres -c 'listen_addresses=*'
