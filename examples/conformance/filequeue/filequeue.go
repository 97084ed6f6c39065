//go:build unix

// Package filequeue is a pub/sub in a directory, for any number of processes: a
// file of JSON lines a topic, and a file a group that says how far the group is.
package filequeue

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

const (
	poll  = 15 * time.Millisecond // between two looks for a message, new or nacked
	drain = 2 * time.Second       // how long Close waits for a handler
)

// Queue publishes, and receives for a group.
type Queue struct {
	dir, group    string
	open, hands   context.Context // end with Close, and when it has waited for handlers
	close, giveUp func()
	running       sync.RWMutex // read-locked by each subscription
}

// New returns a queue in a directory.
func New(dir, group string) *Queue {
	q := &Queue{dir: dir, group: group}
	q.open, q.close = context.WithCancel(context.Background())
	q.hands, q.giveUp = context.WithCancel(context.Background())
	return q
}

func (q *Queue) file(topic, group string, flag int) (*os.File, error) {
	return os.OpenFile(filepath.Join(q.dir, url.QueryEscape(topic)+"@"+url.QueryEscape(group)), flag|os.O_CREATE, 0o600)
}

// Publish appends all messages in one write: nobody else's come between.
func (q *Queue) Publish(topic string, messages ...*message.Message) error {
	var lines bytes.Buffer
	for _, msg := range messages {
		if err := json.NewEncoder(&lines).Encode(msg); err != nil {
			return err
		}
	}
	file, err := q.file(topic, "", os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(lines.Bytes())
	return err
}

// Subscribe delivers one message after the other, from the first that isn't acked.
func (q *Queue) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	q.running.RLock()
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(q.hands, cancel)
	out := make(chan *message.Message)
	go func() {
		defer q.running.RUnlock()
		defer close(out)
		for ctx.Err() == nil && q.open.Err() == nil {
			if !q.deliver(ctx, topic, out) {
				time.Sleep(poll)
			}
		}
	}()
	return out, nil
}

// deliver hands out the group's next message, and reports whether it was acked.
// Meanwhile it holds the lock on the group's file, which ends with its process.
func (q *Queue) deliver(ctx context.Context, topic string, out chan<- *message.Message) bool {
	progress, err := q.file(topic, q.group, os.O_RDWR)
	if err != nil {
		return false
	}
	defer progress.Close()
	if syscall.Flock(int(progress.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return false // another consumer of the group has it
	}
	var offset int64
	_, _ = fmt.Fscanf(progress, "%d", &offset) // an empty file is the beginning
	file, err := q.file(topic, "", os.O_RDONLY)
	if err != nil {
		return false
	}
	defer file.Close()
	line, err := bufio.NewReader(io.NewSectionReader(file, offset, math.MaxInt64-offset)).ReadBytes('\n')
	msg := message.NewMessage("", nil)
	if err != nil || json.Unmarshal(line, msg) != nil {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	msg.SetContext(ctx)
	select {
	case out <- msg:
	case <-q.open.Done():
		return false
	case <-ctx.Done():
	}
	select {
	case <-msg.Acked():
		_, err = progress.WriteAt(fmt.Appendf(nil, "%020d", offset+int64(len(line))), 0)
		return err == nil
	case <-msg.Nacked():
	case <-ctx.Done():
	}
	return false
}

// Close waits for the handler at work. What it hasn't acked by then comes again.
func (q *Queue) Close() error {
	q.close()
	defer time.AfterFunc(drain, q.giveUp).Stop()
	q.running.Lock()
	defer q.running.Unlock()
	return nil
}
