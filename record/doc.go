// Package record remembers which layers and images were converted before, so that they are not converted again: in a SQLite file
// ([DB]), or in a MySQL or MariaDB database that many converters share ([MySQL]).
//
// It is a help and never the truth: whoever asks checks that the blob is still where it is needed. Several processes may use
// one record at the same time.
package record
