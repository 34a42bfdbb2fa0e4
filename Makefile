# What people run; `make check` is what CI runs.

.PHONY: help demo test chaos faults bench bench-merge bench-rehearse check fmt install-postgres

help: ## Shows this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## Upgrades a realistic PostgreSQL 15 to 18 on this machine (KEEP=1 keeps the servers)
	@tests/demo/run.sh

test: install-postgres ## Runs every test
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --workspace --features pgplan/stand-ins; \
	else \
		cargo test --workspace --features pgplan/stand-ins --lib --bins --tests; \
	fi

check: ## Runs the whole gate
	@.ci/run

fmt: ## Formats the code
	@cargo fmt --all

install-postgres: ## Puts PostgreSQL 13, 15, 15.18, 16, 18 and pgbouncer into the cache folder
	@tests/setup/install-postgres.sh

chaos: install-postgres ## Kills pgplan, its programs and servers 200 times (PGPLAN_CHAOS_KILLS) and checks what remains
	@PGPLAN_CHAOS_KILLS=$${PGPLAN_CHAOS_KILLS:-200} cargo test --package pgplan --features stand-ins --test it -- --nocapture --test-threads 1 nothing_is_lost

faults: install-postgres ## Refuses, loses the answer of and holds every action of every plan in plans/ (about 45 minutes)
	@PGPLAN_FAULTS=all cargo test --package pgplan --features stand-ins --test it -- --nocapture --test-threads 2 survives_a_fault_anywhere

bench: ## Measures pgplan against the client tools, in one run (SCALE, ROWS, ROUNDS)
	@tests/bench/run.sh
	@$(MAKE) --no-print-directory bench-merge
	@$(MAKE) --no-print-directory bench-rehearse

bench-merge: ## Measures a merge of 128 shards against the same inserts (MERGE_ROWS, SHARDS, ROUNDS)
	@ROWS=$${MERGE_ROWS:-1000000} tests/bench/merge.sh

bench-rehearse: ## Rehearses and then runs the plan of the demo, and compares the downtimes (REHEARSE_ROWS, ROUNDS)
	@ROWS=$${REHEARSE_ROWS:-500000} tests/bench/rehearse.sh
