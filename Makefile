SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE := $(abspath $(or $(HEADRACE_CACHE),.cache))
GOLANGCI_LINT_VERSION := v2.12.0
GOLANGCI_LINT := $(CACHE)/bin/golangci-lint-$(GOLANGCI_LINT_VERSION)
# Its cache remembers findings with the paths of the checkout that it read first,
# so that another checkout's exclusions by path would miss them.
export GOLANGCI_LINT_CACHE := $(CACHE)/golangci-lint

# Brings the services up (quick when they run) and points the tests at them.
WITH_BROKERS = scripts/brokers start && brokers_env=$$(scripts/brokers env) && eval "$$brokers_env" &&

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

.PHONY: test
test: ## Run all tests on real brokers and databases; leaves those running
	@$(WITH_BROKERS) scripts/test

# Vetting is make lint's and make test's. Most of what the tests take, they wait:
# eight packages and tests at a time keep two cores busy. Binaries without symbols take
# a second less to link each (of some 40).
.PHONY: test-short
test-short: ## Run the tests that need no services: in-memory broker, SQLite; without the race detector
	@go test -short -vet=off -ldflags=-s -p 8 -parallel 8 ./...

.PHONY: scenario
scenario: ## Run scenario tests by number: make scenario S=S10,S11 (all without S)
	@$(WITH_BROKERS) scripts/scenario "$(S)"

.PHONY: faults
faults: ## Kill processes 100 times for each broker, send 10,000 messages round the ring, drain long lines, play every order of events (an hour)
	@$(WITH_BROKERS) export HEADRACE_FAULTS=full; \
		go test -v -race -count=1 -run '^TestCrash' -timeout 3h ./internal/crash && \
		go test -v -count=1 -run '^TestConformance$$//facts/composition/a_ring' -timeout 1h ./brokers_test && \
		go test -v -count=1 -run '^(TestALongLineDrainsInOrder|TestFiveMinutesWithoutStoreLeaveTheDLQEmpty|TestS20_.*)$$' -timeout 2h ./parking ./internal/scenario

.PHONY: bench
bench: ## Run the comparisons with their bars: make bench ONLY=name (all without ONLY)
	@$(WITH_BROKERS) cd bench && go run . -only "$(ONLY)"

# What is given to make is in the environment of its commands.
.PHONY: conformance
conformance: ## Try what a broker guarantees: make conformance BROKER=kafka, or a URL; RUN=regexp JUNIT=file
	@$(if $(filter kafka sqs sqs-fifo postgres mariadb,$(BROKER)),$(WITH_BROKERS)) scripts/conformance

.PHONY: matrix
matrix: ## Try all brokers, and write what they guarantee into docs/guarantees.md (8 minutes)
	@$(WITH_BROKERS) HEADRACE_MATRIX=write go test -count=1 -timeout 20m -v -run '^TestConformance(Raw)?$$' ./brokers_test \
		| { grep -E --line-buffered '^(matrix:|ok|FAIL|panic:)|^ *--- FAIL|^ +run\.go:[0-9]+: (no|unknown|open|holds|by Headrace): |^ +matrix_test\.go:[0-9]+: [^ ]' || true; }

.PHONY: demo
demo: ## Show what gets lost and doubled without Headrace: make demo BROKER=kafka DB=postgres, or URLs
	@$(if $(filter kafka sqs sqs-fifo postgres mariadb,$(BROKER) $(DB)),$(WITH_BROKERS)) \
		echo "building…" && go run $(if $(BROKER)$(DB),,-tags embedded) ./examples/stock/demo $(if $(BROKER),-broker "$(BROKER)") $(if $(DB),-db "$(DB)") $(if $(SEED),-seed $(SEED))

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Check style, formatting and common mistakes
	@$(GOLANGCI_LINT) run ./...
	@cd bench && go vet ./...
	@cd examples/recipes && go vet ./...
	@cd brokers_test/redis && go vet -mod=mod ./...

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code (gofumpt, sorted imports)
	@$(GOLANGCI_LINT) fmt ./...

.PHONY: lint-tools
lint-tools: $(GOLANGCI_LINT) ## Build the linter into .cache/bin (minutes, once)

# Built under another name first: an interrupted build must not look like the tool.
$(GOLANGCI_LINT):
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION), once; this takes some minutes"
	@mkdir -p $(CACHE)/bin/part
	@GOBIN=$(CACHE)/bin/part go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv $(CACHE)/bin/part/golangci-lint $@

.PHONY: brokers-start
brokers-start: ## Start Kafka, SQS (ElasticMQ), PostgreSQL and MariaDB
	@scripts/brokers start

.PHONY: brokers-stop
brokers-stop: ## Stop them; their data stays
	@scripts/brokers stop

.PHONY: brokers-status
brokers-status: ## Show what runs
	@scripts/brokers status || true

.PHONY: clean
clean: ## Stop the services and delete everything that was built, fetched or stored
	@scripts/brokers reset
	@rm -rf $(CACHE) bin coverage.*
