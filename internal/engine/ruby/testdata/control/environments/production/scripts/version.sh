#!/bin/sh
echo "of $1 $2"
