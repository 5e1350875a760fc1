package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/tierlimit/tierlimit/scripts"
)

// Publish keeps a text of a replica under a topic, in place of its last one, for as long as keep.
// Other replicas read it with Published. topic must be a constant or come from Topic.
func (s *Store) Publish(ctx context.Context, topic, replica, text string, keep time.Duration) error {
	if _, err := s.run(ctx, scripts.Publish, []string{boardKey(topic)}, []any{replica, text, keep.Milliseconds()}); err != nil {
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	return nil
}

// Replace is Publish if the text under name is still previous; "" means that there is none. It
// reports whether it was. Several replicas may replace the text of one name: one of them wins.
func (s *Store) Replace(ctx context.Context, topic, name, previous, text string, keep time.Duration) (bool, error) {
	reply, err := s.run(ctx, scripts.Publish, []string{boardKey(topic)}, []any{name, text, keep.Milliseconds(), previous})
	if err != nil {
		return false, fmt.Errorf("replace %s of %s: %w", name, topic, err)
	}
	return reply == int64(1), nil
}

// A Notice is a text that was published.
type Notice struct {
	Text string
	Left time.Duration // until it expires, by the clock of Redis
}

// Notices returns the texts under a topic that have not expired, by the name of the replica.
func (s *Store) Notices(ctx context.Context, topic string) (map[string]Notice, error) {
	reply, err := s.run(ctx, scripts.Published, []string{boardKey(topic)}, nil)
	if err != nil {
		return nil, fmt.Errorf("read what is published of %s: %w", topic, err)
	}
	list, ok := reply.([]any)
	if !ok || len(list)%3 != 0 {
		return nil, fmt.Errorf("read what is published of %s: %w", topic, errReply)
	}
	notices := make(map[string]Notice, len(list)/3)
	for i := 0; i < len(list); i += 3 {
		name, isName := list[i].(string)
		text, isText := list[i+1].(string)
		left, isNumber := list[i+2].(int64)
		if !isName || !isText || !isNumber {
			return nil, fmt.Errorf("read what is published of %s: %w", topic, errReply)
		}
		notices[name] = Notice{text, time.Duration(left) * time.Millisecond}
	}
	return notices, nil
}

// Published is Notices without the time that is left.
func (s *Store) Published(ctx context.Context, topic string) (map[string]string, error) {
	notices, err := s.Notices(ctx, topic)
	if err != nil {
		return nil, err
	}
	texts := make(map[string]string, len(notices))
	for name, notice := range notices {
		texts[name] = notice.Text
	}
	return texts, nil
}

// Topic returns the name of a topic about one subject. Its key is in the slot of the subject.
func (s *Store) Topic(name, subject string) string { return Key(subject) + ":" + name }

// boardKey returns the key of a topic.
func boardKey(topic string) string {
	if len(topic) > len(keyPrefix) && topic[:len(keyPrefix)] == keyPrefix {
		return topic // of one subject
	}
	return "tl:board:" + topic
}

const keyPrefix = "tl:{"
