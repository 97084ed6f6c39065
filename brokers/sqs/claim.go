package sqs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/headrace-go/headrace/brokers"
)

// claimPrefix starts the key of the tag by which a group claims a queue. Each
// group has a key of its own, so that two that come at once see each other
// instead of overwriting one another.
const claimPrefix = "headrace.group."

// claim makes a group the queue's only one, or returns brokers.ErrOneGroup. A
// claim stays when its holders end: the group's next process relies on it.
//
// A group adds its tag when it sees no other, and looks again: of two that add
// theirs at the same moment at least one sees the other and withdraws.
func (q *queues) claim(ctx context.Context, found *queue, group string) error {
	if !q.settings.claim {
		return nil
	}
	const tries = 4
	own := claimKey(group)
	for try := 1; ; try++ {
		other, mine, err := q.claims(ctx, found, own)
		if err != nil || other != "" || mine {
			return q.claimed(found, group, other, err)
		}
		other, err = q.tryClaim(ctx, found, own, group)
		if err != nil || other == "" || try == tries {
			return q.claimed(found, group, other, err)
		}

		timer := time.NewTimer(rand.N(200 * time.Millisecond))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()

			return q.claimed(found, group, "", ctx.Err())
		}
	}
}

// tryClaim adds the group's tag, and takes it back when another's is there.
func (q *queues) tryClaim(ctx context.Context, found *queue, own, group string) (other string, err error) {
	if _, err := q.client.TagQueue(ctx, &sqs.TagQueueInput{
		QueueUrl: aws.String(found.url), Tags: map[string]string{own: claimValue(group)},
	}); err != nil {
		return "", fmt.Errorf("tag it: %w", err)
	}
	other, _, err = q.claims(ctx, found, own)
	if err == nil && other == "" {
		return "", nil
	}
	_, untagErr := q.client.UntagQueue(ctx, &sqs.UntagQueueInput{QueueUrl: aws.String(found.url), TagKeys: []string{own}})

	return other, errors.Join(err, untagErr)
}

// claims returns the name of another group that has claimed the queue, and
// whether the own tag is there.
func (q *queues) claims(ctx context.Context, found *queue, own string) (other string, mine bool, err error) {
	out, err := q.client.ListQueueTags(ctx, &sqs.ListQueueTagsInput{QueueUrl: aws.String(found.url)})
	if err != nil {
		return "", false, fmt.Errorf("list its tags: %w", err)
	}
	for key, value := range out.Tags {
		switch {
		case key == own:
			mine = true
		case strings.HasPrefix(key, claimPrefix):
			other = value
			if other == "" {
				other = key
			}
		}
	}

	return other, mine, nil
}

// claimed turns the outcome into an error that shows the way out.
func (q *queues) claimed(found *queue, group, other string, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("claim queue %s for group %q: %w; the account needs sqs:ListQueueTags, sqs:TagQueue and "+
			"sqs:UntagQueue, or open the broker with claim=false and make sure that one group reads the queue",
			found.name, group, err)
	case other != "":
		return fmt.Errorf("%w: queue %s belongs to group %q, so group %q would take its messages; "+
			"give each service a queue (topic) of its own, or remove the queue's tag %s if that group is gone",
			brokers.ErrOneGroup, found.name, other, group, claimPrefix+"…")
	default:
		return nil
	}
}

func claimKey(group string) string {
	sum := sha256.Sum256([]byte(group))

	return claimPrefix + hex.EncodeToString(sum[:8])
}

// maxTagValue is the most characters of a tag's value.
const maxTagValue = 256

// claimValue shows the group's name in the characters that a tag may have.
func claimValue(group string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("_.:/=+-@ ", r):
			return r
		default:
			return '_'
		}
	}, group)

	return name[:min(len(name), maxTagValue)]
}
