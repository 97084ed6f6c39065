package importtest

// rule says what a package's code, tests aside, may import beyond the standard
// library.
type rule struct {
	// pkg is a path below the module's, or "path/..." for those of and below it that
	// have no rule of their own.
	pkg string
	// product are Headrace's own packages, in the same two forms.
	product []string
	// modules are other people's, beyond those that the rule's group allows.
	modules []string
	// bare packages may import nothing but what the rule itself names.
	bare bool
}

// leaves are packages that know nothing of the product, so that every package
// may use them.
var leaves = []string{
	"internal/step", "internal/redact", "internal/reach", "internal/clock", "internal/signals", "internal/lifecycle",
	"internal/driverconn", "internal/subprocess", "internal/begun", "internal/hold", "internal/remark", "internal/ruling",
	"internal/collapse", "internal/limits",
}

// light are small modules that bring nothing along: every package may use them.
var light = []string{
	"github.com/ThreeDotsLabs/watermill",
	"github.com/cespare/xxhash/v2",
	"github.com/failsafe-go/failsafe-go",
	"github.com/google/uuid",
	"github.com/jonboulle/clockwork",
	"golang.org/x/sync",
}

// bundle is the module's own package: the usual set in one constructor. Nothing in
// the product imports it but examples.
const bundle = ""

// inHand is what every broker's subscriber needs around a message in hand.
const inHand = "brokers/internal/delivery"

// Clients and drivers.
const (
	sarama       = "github.com/IBM/sarama"
	watermillSQL = "github.com/ThreeDotsLabs/watermill-sql/v4"
	pgx          = "github.com/jackc/pgx/v5"
	mysqlDriver  = "github.com/go-sql-driver/mysql"
	sqliteDriver = "modernc.org/sqlite"
	testify      = "github.com/stretchr/testify"
)

// rules is the direction of imports. Packages that don't exist yet have theirs
// already.
var rules = []rule{
	{pkg: "msgmeta", bare: true, modules: []string{"github.com/ThreeDotsLabs/watermill/message"}},
	{pkg: "keys", bare: true, product: []string{"msgmeta"}, modules: []string{
		"github.com/ThreeDotsLabs/watermill/message", "github.com/tidwall/gjson",
	}},

	{pkg: "store", product: []string{"msgmeta"}, modules: []string{"github.com/jmoiron/sqlx", "github.com/pressly/goose/v3"}},
	{pkg: "store/pgxstore", product: []string{"store"}, modules: []string{pgx}},
	{pkg: "store/storetest", product: []string{"store", "msgmeta"}, modules: []string{testify, "github.com/jmoiron/sqlx"}},

	{pkg: "parking", product: []string{"store", "keys", "msgmeta"}},
	{pkg: "precedence", product: []string{"store", "keys", "parking", "msgmeta"}},
	{
		pkg: "middleware", product: []string{"store", "keys", "parking", "precedence", "msgmeta"},
		modules: []string{"github.com/robfig/cron/v3", "github.com/tidwall/gjson"}, // the purge's schedule; states in payloads
	},
	{
		pkg: "forwarder", product: []string{"store", "keys", "parking", "msgmeta"},
		modules: []string{"github.com/robfig/cron/v3"},
	},
	{pkg: "ordering", product: []string{"store", "keys", "parking", "forwarder", "msgmeta", "internal/lanes"}},
	{pkg: "effects", product: []string{"store", "parking", "msgmeta"}},
	{pkg: "sagas", product: []string{"store", "keys", "parking", "effects", "forwarder", "msgmeta"}},

	{pkg: bundle, product: []string{"store", "keys", "parking", "precedence", "middleware", "forwarder", "msgmeta"}},

	// Brokers only deliver and redeliver: each knows its one client. They name
	// the key and the sending by msgmeta.
	{pkg: "brokers", product: []string{"msgmeta"}},
	{pkg: "brokers/all", product: []string{"brokers", "brokers/..."}},
	{pkg: "brokers/mem", product: []string{"brokers", inHand, "msgmeta", "internal/lanes"}, modules: []string{sqliteDriver}},
	{pkg: "brokers/kafka", product: []string{"brokers", inHand, "msgmeta", "internal/lanes"}, modules: []string{
		sarama, "github.com/ThreeDotsLabs/watermill-kafka/v3", "github.com/twmb/franz-go",
		"github.com/xdg-go/scram", // SASL for sarama, which brings none
	}},
	{pkg: "brokers/sqs", product: []string{"brokers", inHand, "msgmeta", "internal/lanes"}, modules: []string{
		"github.com/ThreeDotsLabs/watermill-aws", "github.com/aws/aws-sdk-go-v2", "github.com/aws/smithy-go",
	}},
	// These two may reach the store, to join watermill-sql's transaction to a
	// unit of work.
	{
		pkg:     "brokers/postgres",
		product: []string{"brokers", "brokers/internal/...", "msgmeta", "store", "internal/lanes"},
		modules: []string{watermillSQL, pgx},
	},
	{
		pkg:     "brokers/mysql",
		product: []string{"brokers", "brokers/internal/...", "msgmeta", "store", "internal/lanes"},
		modules: []string{watermillSQL, mysqlDriver},
	},
	{
		pkg:     "brokers/internal/sqlbroker",
		product: []string{"brokers", inHand, "brokers/internal/sqljoin", "msgmeta"}, modules: []string{watermillSQL},
	},
	{pkg: "brokers/internal/sqljoin", product: []string{"brokers", "msgmeta"}, modules: []string{watermillSQL}},
	{pkg: inHand, product: []string{"brokers"}},

	// What users run against their own code and brokers.
	// It brings a database for whole services, where the user names none.
	{pkg: "conformance", modules: []string{testify, sqliteDriver}, product: []string{
		bundle,
		"msgmeta", "keys", "store", "store/...", "parking", "precedence", "middleware", "forwarder", "ordering", "effects",
		"sagas", "brokers", "brokers/...", "conformance/...", "internal/faults",
	}},
	{pkg: "conformance/...", modules: []string{testify}, product: []string{"conformance/...", "msgmeta", "internal/faults"}},
	{
		pkg: "handlertest", product: []string{"store", "middleware", "forwarder", "keys", "msgmeta"},
		modules: []string{sqliteDriver}, // for handlers whose test brings no database
	},

	// A folder of tests only.
	{pkg: "brokers_test", bare: true},

	{pkg: "admin", product: []string{"store", "parking", "sagas"}},

	// Programs.
	{pkg: "cmd/headrace", product: []string{"internal/cli"}},
	{pkg: "internal/cli", product: []string{
		"msgmeta", "keys", "store", "store/pgxstore", "parking", "precedence", "middleware", "forwarder", "ordering", "effects",
		"sagas", "brokers", "brokers/all", "admin", "internal/dburl",
		"conformance", // the command runs the suite; nothing that a service links does
	}, modules: []string{"github.com/spf13/cobra"}},
	// Examples show the public API; like every user, they bring their own driver.
	{pkg: "examples/...", product: []string{
		"msgmeta", "keys", "store", "store/pgxstore", "parking", "precedence", "middleware", "forwarder", "ordering", "effects",
		"sagas", bundle, "brokers", "brokers/all", "brokers/mem", "brokers/kafka", "brokers/sqs", "handlertest", "admin",
		"examples/...", "internal/dburl",
	}, modules: []string{
		pgx, "github.com/lib/pq", mysqlDriver, sqliteDriver, "github.com/jmoiron/sqlx",
		watermillSQL, "github.com/ThreeDotsLabs/watermill-kafka/v3", sarama,
		"github.com/aws/aws-sdk-go-v2", // to remove the queues that the demo has made
	}},

	// Inside. A leaf's rule is the last line: it imports other leaves alone.
	{pkg: "internal/dburl", product: []string{"internal/redact"}, modules: []string{pgx, mysqlDriver, sqliteDriver}},
	{pkg: "internal/testenv", product: []string{"internal/dburl"}, modules: []string{
		testify, "go.uber.org/goleak", "github.com/emersion/go-smtp",
	}},
	{pkg: "internal/testenv/disrupt", product: []string{"internal/testenv"}, modules: []string{
		testify, "github.com/Shopify/toxiproxy/v2", "github.com/rs/zerolog",
	}},
	{pkg: "internal/..."},
}

// core is what a user's service links whatever its broker and database.
var core = []string{
	"msgmeta", "keys", "store", "parking", "precedence", "middleware", "forwarder", "ordering", "effects", "sagas",
	"brokers", "admin", bundle,
}

// foreignToCore must not be reached from the core, however indirectly: users
// bring their own driver and open the brokers they want.
var foreignToCore = map[string][]string{
	"a broker's client": {
		sarama, "github.com/aws/aws-sdk-go-v2", "github.com/aws/smithy-go", "github.com/twmb/franz-go",
		"github.com/confluentinc/confluent-kafka-go", "github.com/segmentio/kafka-go",
		"github.com/ThreeDotsLabs/watermill-kafka/v3", "github.com/ThreeDotsLabs/watermill-aws", watermillSQL,
	},
	"a SQL driver": {
		pgx, "github.com/lib/pq", mysqlDriver, sqliteDriver, "github.com/mattn/go-sqlite3",
	},
	"a test library": {testify, "go.uber.org/goleak", "pgregory.net/rapid"},
}

// suites are what users run against their own code and brokers, and the modules
// that only those need.
var suites = []string{
	module + "/conformance", module + "/handlertest", module + "/store/storetest", "github.com/Shopify/toxiproxy", "testing",
}

// notLinked are the packages that no service links: the suites themselves, tests,
// programs and examples.
var notLinked = []string{
	"conformance/...", "handlertest/...", "store/storetest", "brokers_test", "cmd/...", "internal/cli", "internal/testenv/...",
	"examples/...", "bench/...",
}
