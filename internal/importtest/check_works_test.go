package importtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// imports makes a graph of one product package.
func imports(pkg string, imported ...string) graph { return graph{module + "/" + pkg: imported} }

func TestBrokenRulesAreFound(t *testing.T) {
	t.Parallel()
	const watermill = "github.com/ThreeDotsLabs/watermill"
	const mayNot = " may not import "
	for name, test := range map[string]struct {
		graph graph
		want  string
	}{
		"standard library": {imports("msgmeta", "strings", "encoding/json"), ""},
		"named module":     {imports("msgmeta", watermill+"/message"), ""},
		"light module":     {imports("store", watermill, "golang.org/x/sync/errgroup"), ""},
		"named package":    {imports("keys", module+"/msgmeta"), ""},
		"leaf":             {imports("forwarder", module+"/internal/step"), ""},
		"folder":           {imports("brokers/all", module+"/brokers", module+"/brokers/kafka"), ""},
		"folder's inside":  {imports("brokers/mysql", module+"/brokers/internal/sqljoin"), ""},
		"program":          {imports("internal/cli", module+"/brokers/all", "github.com/spf13/cobra"), ""},
		"example":          {imports("examples/stock/demo", module+"/middleware", module+"/examples/stock"), ""},
		"later package":    {imports("sagas", module+"/effects"), ""},

		"upwards":               {imports("store", module+"/forwarder"), "/store" + mayNot + module + "/forwarder"},
		"sideways":              {imports("middleware", module+"/forwarder"), "/middleware" + mayNot + module + "/forwarder"},
		"bare package's leaf":   {imports("msgmeta", module+"/internal/step"), "/msgmeta" + mayNot + module + "/internal/step"},
		"bare package's module": {imports("msgmeta", watermill), "/msgmeta" + mayNot + watermill},
		"light, but bare":       {imports("keys", "github.com/google/uuid"), "/keys" + mayNot + "github.com/google/uuid"},
		"like a light one's name": {
			imports("store", watermill+"-kafka/v3/pkg/kafka"), "/store" + mayNot + watermill + "-kafka/v3/pkg/kafka",
		},
		"another's client": {
			imports("brokers/mem", "github.com/IBM/sarama"), "/brokers/mem" + mayNot + "github.com/IBM/sarama",
		},
		"driver":              {imports("store", "github.com/lib/pq"), "/store" + mayNot + "github.com/lib/pq"},
		"test library":        {imports("forwarder", testify+"/require"), "/forwarder" + mayNot + testify + "/require"},
		"test environment":    {imports("store", module+"/internal/testenv"), "/store" + mayNot + module + "/internal/testenv"},
		"drivers by a detour": {imports("brokers", module+"/internal/dburl"), "/brokers" + mayNot + module + "/internal/dburl"},
		"leaf upwards":        {imports("internal/step", module+"/store"), "/internal/step" + mayNot + module + "/store"},
		"example inside": {
			imports("examples/stock", module+"/internal/cli"), "/examples/stock" + mayNot + module + "/internal/cli",
		},
		"hidden by tests": {imports("brokers_test", module+"/brokers"), "/brokers_test" + mayNot + module + "/brokers"},
		"no rule":         {imports("util"), "/util has no rule: add one to rules_test.go"},
		"bundle":          {graph{module: {module + "/forwarder"}}, ""},
		"bundle upwards":  {graph{module: {module + "/admin"}}, mayNot + module + "/admin"},
		"stranger":        {graph{"example.com/shop": {module + "/store"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := violations(test.graph, rules)
			if test.want == "" {
				require.Empty(t, found)
				return
			}
			require.Equal(t, []string{module + test.want}, found)
		})
	}
}

func TestIndirectImportsOfTheCoreAreFoundWithTheirWay(t *testing.T) {
	t.Parallel()
	g := graph{
		module + "/store":       {"example.com/sugar", "database/sql"},
		"example.com/sugar":     {"example.com/salt", "fmt"},
		"example.com/salt":      {pgx + "/stdlib"},
		pgx + "/stdlib":         {pgx},
		module + "/brokers/mem": {sqliteDriver}, // not of the core
		module + "/keys":        {"github.com/jackc/pgx/v5000"},
	}
	require.Equal(t, []string{
		"the core pulls in a SQL driver: " + module + "/store → example.com/sugar → example.com/salt → " + pgx + "/stdlib",
	}, foreign(g))

	for kind, modules := range foreignToCore {
		for _, m := range modules {
			require.Equal(t, []string{"the core pulls in " + kind + ": " + module + "/forwarder → " + m},
				foreign(graph{module + "/forwarder": {m}}))
		}
	}
}

func TestSuitesThatServicesWouldLinkAreFoundWithTheirWay(t *testing.T) {
	t.Parallel()
	g := graph{
		module + "/brokers/kafka": {"example.com/sugar"},
		"example.com/sugar":       {"testing"},
		module + "/middleware":    {module + "/conformance/fault"},
		module + "/internal/cli":  {module + "/conformance"},
		module + "/conformance":   {"testing"},
	}
	require.Equal(t, []string{
		"services would link a suite: " + module + "/brokers/kafka → example.com/sugar → testing",
		"services would link a suite: " + module + "/middleware → " + module + "/conformance/fault",
	}, suitesReached(g))
}

func TestRulesThatLeaveTheDirectionOpenAreFound(t *testing.T) {
	t.Parallel()
	require.Empty(t, circle([]rule{{pkg: "a", product: []string{"b"}}, {pkg: "b"}}))
	require.Equal(t, []string{"a", "b", "c", "a"}, circle([]rule{
		{pkg: "a", product: []string{"b"}}, {pkg: "b", product: []string{"c"}}, {pkg: "c", product: []string{"a"}},
	}))
	require.NotEmpty(t, circle([]rule{{pkg: "a/b", product: []string{"c"}}, {pkg: "c", product: []string{"a/..."}}}))
}

func TestFileThatIsNoTestIsFound(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"suite_test.go", "README.md", "suite.go"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), nil, 0o600))
	}
	require.Equal(t, []string{filepath.Join(folder, "suite.go")}, notTests(t, folder))
}
