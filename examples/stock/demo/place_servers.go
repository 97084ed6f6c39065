//go:build !embedded

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/IBM/sarama"
	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/headrace-go/headrace/brokers/sqs"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/store"
)

// ownSchema makes a schema (on MariaDB and MySQL a database) and returns the URL
// that works in it.
func (p *place) ownSchema(ctx context.Context, rawURL, name string) (own string, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", errors.New("the URL can't be parsed: escape what is special in user and password")
	}
	if err := execute(ctx, u, "CREATE", name); err != nil {
		return "", fmt.Errorf("make %s to work in, for which the user needs the right: %w", name, err)
	}
	p.onClean(func(ctx context.Context) error {
		if err := execute(ctx, u, "DROP", name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		return nil
	})
	if strings.HasPrefix(u.Scheme, "postgres") {
		return withOption(u, "search_path", name).String(), nil
	}
	inDatabase := *u
	inDatabase.Path = "/" + name
	return inDatabase.String(), nil
}

// execute creates or drops a schema or database. name comes from runName and
// needs no quotes.
func execute(ctx context.Context, u *url.URL, what, name string) (err error) {
	server := *u
	query := url.Values{}
	for option, values := range u.Query() {
		// The others are a broker's, which the driver doesn't know.
		if strings.HasPrefix(option, "ssl") {
			query[option] = values
		}
	}
	server.RawQuery = query.Encode()
	db, err := connect.Open(server.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	statement := what + " DATABASE " + name
	if db.Dialect == store.Postgres {
		statement = what + " SCHEMA " + name
		if what == "DROP" {
			statement += " CASCADE"
		}
	}
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

func (p *place) all() []string {
	return []string{p.topics.Changes, p.topics.FollowUps, p.topics.Refused}
}

// removeTopics deletes the side's topics and group where that needs no password
// and no certificate; elsewhere it says what is left.
func (p *place) removeTopics(_ context.Context, u *url.URL) (err error) {
	if u.User != nil || u.Query().Get("tls") == "true" || u.Query().Has("sasl") {
		return fmt.Errorf("left behind in Kafka, because the demo deletes over plain connections only: topics %s, group %s",
			strings.Join(p.all(), " "), p.group)
	}
	admin, err := sarama.NewClusterAdmin(strings.Split(u.Host, ","), sarama.NewConfig())
	if err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	defer func() { err = errors.Join(err, admin.Close()) }()
	for _, topic := range p.all() {
		// Nothing may ever have been written to it.
		if err := admin.DeleteTopic(topic); err != nil && !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
			return fmt.Errorf("delete topic %s: %w", topic, err)
		}
	}
	if err := admin.DeleteConsumerGroup(p.group); err != nil && !errors.Is(err, sarama.ErrGroupIDNotFound) {
		return fmt.Errorf("delete consumer group %s: %w", p.group, err)
	}
	return nil
}

func (p *place) removeQueues(ctx context.Context, u *url.URL) error {
	query := u.Query()
	options := []func(*awsconfig.LoadOptions) error{}
	if region := query.Get("region"); region != "" {
		options = append(options, awsconfig.WithRegion(region))
	}
	if key := query.Get("access_key"); key != "" {
		options = append(options, awsconfig.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(key, query.Get("secret_key"), query.Get("session_token"))))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return fmt.Errorf("delete queues: %w", err)
	}
	connections := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}
	defer connections.CloseIdleConnections()
	client := awssqs.NewFromConfig(cfg, func(o *awssqs.Options) {
		o.HTTPClient = connections
		if u.Host != "" {
			o.BaseEndpoint = aws.String(endpoint(u))
		}
	})
	for _, topic := range p.all() {
		name := sqs.QueueName(topic, query.Get("fifo") == "true")
		found, err := client.GetQueueUrl(ctx, &awssqs.GetQueueUrlInput{QueueName: aws.String(name)})
		if missing := (*types.QueueDoesNotExist)(nil); errors.As(err, &missing) {
			continue
		}
		if err == nil {
			_, err = client.DeleteQueue(ctx, &awssqs.DeleteQueueInput{QueueUrl: found.QueueUrl})
		}
		if err != nil {
			return fmt.Errorf("delete queue %s: %w", name, err)
		}
	}
	return nil
}

// endpoint guesses as package brokers/sqs does.
func endpoint(u *url.URL) string {
	scheme := u.Query().Get("scheme")
	if scheme == "" {
		scheme = "https"
		if host := u.Hostname(); host == "localhost" || strings.HasPrefix(host, "127.") || host == "::1" {
			scheme = "http"
		}
	}
	return scheme + "://" + u.Host
}
