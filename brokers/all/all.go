// Package all lists every broker that Headrace brings.
package all

import (
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/kafka"
	"github.com/headrace-go/headrace/brokers/mem"
	"github.com/headrace-go/headrace/brokers/mysql"
	"github.com/headrace-go/headrace/brokers/postgres"
	"github.com/headrace-go/headrace/brokers/sqs"
)

// Openers returns the opener of every scheme. The map is the caller's own.
func Openers() map[string]brokers.Opener {
	return map[string]brokers.Opener{
		"kafka":      kafka.Open,
		"mariadb":    mysql.Open,
		"mem":        mem.Open,
		"mysql":      mysql.Open,
		"postgres":   postgres.Open,
		"postgresql": postgres.Open,
		"sqs":        sqs.Open,
	}
}
